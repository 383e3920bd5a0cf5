// The solids that a robot is made of, drawn as shaded outlines. Sizes are MuJoCo's.

import { place, seen, trace } from "./ground.js";
import { bright, LAMP, lit, normalised } from "./shade.js";

const TURN = 2 * Math.PI;
const ROUND = Array.from({ length: 20 }, (_, i) => [Math.cos((i / 20) * TURN), Math.sin((i / 20) * TURN)]);
const CORNERS = Array.from({ length: 8 }, (_, i) => [i & 1 ? 1 : -1, i & 2 ? 1 : -1, i & 4 ? 1 : -1]);
const FACES = [[0, 2, 6, 4], [1, 5, 7, 3], [0, 4, 5, 1], [2, 3, 7, 6], [0, 1, 3, 2], [4, 6, 7, 5]];
const ANGLES = [-90, -54, -18, 18, 54, 90].map((degrees) => (degrees * Math.PI) / 180);

/** Turns a vector by the quaternion (w, x, y, z) that begins at `at` in `floats`. */
export function turned(floats, at, [x, y, z]) {
	const [w, a, b, c] = [floats[at], floats[at + 1], floats[at + 2], floats[at + 3]];
	const [tx, ty, tz] = [2 * (b * z - c * y), 2 * (c * x - a * z), 2 * (a * y - b * x)];
	return [
		x + w * tx + b * tz - c * ty,
		y + w * ty + c * tx - a * tz,
		z + w * tz + a * ty - b * tx,
	];
}

/** Returns the hull of flat points, always in the same direction of turning. */
export function hull(points) {
	const sorted = points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
	const half = (list) => {
		const chain = [];
		for (const point of list) {
			while (chain.length > 1) {
				const [o, a] = chain.slice(-2);
				if ((a[0] - o[0]) * (point[1] - o[1]) - (a[1] - o[1]) * (point[0] - o[0]) > 0) break;
				chain.pop();
			}
			chain.push(point);
		}
		chain.pop();
		return chain;
	};
	return [...half(sorted), ...half(sorted.reverse())];
}

/** Balls whose hull is about the solid: [offset, radius], in its own axes. Shadows are made of them. */
function balls({ type, size: [a, b, c], fine }) {
	if (type === "plane" || type === "cord") return [];
	if (type === "mesh") { // seldom as large as its box
		const { low, high } = fine;
		return CORNERS.map((signs) => [signs.map((sign, i) => (low[i] + high[i] + 0.8 * sign * (high[i] - low[i])) / 2), 0]);
	}
	if (type === "sphere") return [[[0, 0, 0], a]];
	if (type === "capsule" || type === "cylinder") return [[[0, 0, b], a], [[0, 0, -b], a]];
	const part = type === "ellipsoid" ? 0.55 : 1;
	const radius = type === "ellipsoid" ? Math.min(a, b, c) * 0.5 : 0;
	return CORNERS.map(([x, y, z]) => [[x * a * part, y * b * part, z * c * part], radius]);
}

/** Prepares a solid of the scene for drawing; `mesh` describes its mesh, if it is one. */
export function solid(part, mesh) {
	const geom = { ...part, ...mesh };
	const [a, b] = geom.size;
	const size = { sphere: [a, a, a], plane: [a || 20, b || 20, 0.001] }[geom.type] ?? geom.size;
	return { ...geom, size, table: [], balls: balls({ ...geom, size }), draw: DRAWERS[geom.type] };
}

/** Adds the outline of two circles and the band between them: a capsule in perspective. */
export function capsulePath(context, [ax, ay], ra, [bx, by], rb) {
	const gap = Math.hypot(bx - ax, by - ay);
	if (gap <= Math.abs(ra - rb) + 1e-6) {
		const [x, y, r] = ra > rb ? [ax, ay, ra] : [bx, by, rb];
		context.moveTo(x + r, y);
		context.arc(x, y, r, 0, TURN);
		return;
	}
	const along = Math.atan2(by - ay, bx - ax);
	const open = Math.acos((ra - rb) / gap);
	context.moveTo(ax + ra * Math.cos(along + open), ay + ra * Math.sin(along + open));
	context.arc(ax, ay, ra, along + open, along - open + TURN);
	context.arc(bx, by, rb, along - open, along + open);
	context.closePath();
}

/** Returns both ends of a capsule or cylinder in camera coordinates, the nearer one last. */
function ends(view, { size }, floats, at) {
	const [x, y, z] = [floats[at], floats[at + 1], floats[at + 2]];
	const [dx, dy, dz] = turned(floats, at + 3, [0, 0, size[1]]);
	const [a, b] = [seen(view, x - dx, y - dy, z - dz), seen(view, x + dx, y + dy, z + dz)];
	return a[2] > b[2] ? [a, b] : [b, a];
}

const dot = ([a, b, c], [x, y, z]) => a * x + b * y + c * z;
const cross = ([a, b, c], [x, y, z]) => [b * z - c * y, c * x - a * z, a * y - b * x];

/** Returns a gradient across a round bar, lit as its surface would be. */
function barrel(context, table, a, b, [fx, fy], [nx, ny], radius) {
	const axis = b.map((value, i) => value - a[i]);
	const gap = Math.hypot(nx - fx, ny - fy);
	const across = gap > 1e-3 ? [-(ny - fy) / gap, (nx - fx) / gap] : [-LAMP[0], LAMP[1]];
	const side = [across[0], -across[1], 0];
	let front = normalised(cross(axis, side));
	if (front[2] > 0) front = front.map((value) => -value);
	const [mx, my] = [(fx + nx) / 2, (fy + ny) / 2];
	const paint = context.createLinearGradient(mx - across[0] * radius, my - across[1] * radius,
		mx + across[0] * radius, my + across[1] * radius);
	for (const angle of ANGLES) {
		const [s, c] = [Math.sin(angle), Math.cos(angle)];
		paint.addColorStop((s + 1) / 2,
			lit(table, s * side[0] + c * front[0], s * side[1] + c * front[1], c * front[2]));
	}
	return paint;
}

/** Returns a gradient of a ball lit from the lamp. */
function ballPaint(context, table, x, y, radius) {
	const paint = context.createRadialGradient(x + LAMP[0] * radius * 0.6, y - LAMP[1] * radius * 0.6,
		radius * 0.04, x, y, radius);
	[0.97, 0.9, 0.74, 0.52, 0.3].forEach((light, i) => paint.addColorStop(i / 4, bright(table, light)));
	return paint;
}

// Each draws the outline of a solid, and fills it unless it is only to be outlined.

function drawCapsule(context, view, body, floats, at, fills) {
	const [far, close] = ends(view, body, floats, at);
	const radius = body.size[0];
	if (close[2] < radius + 0.01) return;
	const [a, b] = [place(view, far), place(view, close)];
	const [ra, rb] = [(view.focus * radius) / far[2], (view.focus * radius) / close[2]];
	context.beginPath();
	capsulePath(context, a, ra, b, rb);
	context.stroke();
	if (!fills) return;
	context.fillStyle = barrel(context, body.table, far, close, a, b, rb);
	context.fill();
	// Seen from its end it looks like a ball; blended in, so that nothing jumps.
	const length = Math.hypot(...far.map((value, i) => value - close[i])) || 1;
	const facing = (far[2] - close[2]) / length;
	const blend = Math.min(1, Math.max(0, (facing - 0.45) / 0.35));
	if (blend > 0 || length < radius * 0.2) {
		context.globalAlpha = blend;
		context.beginPath();
		context.arc(b[0], b[1], rb, 0, TURN);
		context.fillStyle = ballPaint(context, body.table, b[0], b[1], rb);
		context.fill();
		context.globalAlpha = 1;
	}
}

function drawEllipsoid(context, view, body, floats, at, fills) {
	const centre = seen(view, floats[at], floats[at + 1], floats[at + 2]);
	if (centre[2] < Math.max(...body.size) + 0.01) return;
	let [xx, xy, yy] = [0, 0, 0]; // the outline's extent: the sum over its axes
	for (let i = 0; i < 3; i += 1) {
		const axis = turned(floats, at + 3, [0, 1, 2].map((j) => (i === j ? body.size[i] : 0)));
		const x = axis[0] * view.right[0] + axis[1] * view.right[1];
		const y = axis[0] * view.up[0] + axis[1] * view.up[1] + axis[2] * view.up[2];
		[xx, xy, yy] = [xx + x * x, xy - x * y, yy + y * y];
	}
	const [mean, spread] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
	const scale = view.focus / centre[2];
	const [long, short] = [mean + spread, Math.max(mean - spread, 1e-9)].map((v) => Math.sqrt(v) * scale);
	const [x, y] = place(view, centre);
	context.beginPath();
	context.ellipse(x, y, long, short, Math.atan2(2 * xy, xx - yy) / 2, 0, TURN);
	context.stroke();
	if (!fills) return;
	context.fillStyle = ballPaint(context, body.table, x, y, long);
	context.fill();
}

function drawCylinder(context, view, body, floats, at, fills) {
	const [far, close] = ends(view, body, floats, at);
	const radius = body.size[0];
	if (close[2] < radius + 0.01) return;
	const [x, y] = [[radius, 0, 0], [0, radius, 0]].map((arm) => {
		const end = turned(floats, at + 3, arm);
		return seen({ ...view, eye: [0, 0, 0] }, ...end);
	});
	const rim = (centre) => ROUND.map(([c, s]) =>
		place(view, centre.map((value, i) => value + c * x[i] + s * y[i])));
	context.beginPath();
	trace(context, hull([...rim(far), ...rim(close)]));
	context.stroke();
	if (!fills) return;
	const [a, b] = [place(view, far), place(view, close)];
	context.fillStyle = barrel(context, body.table, far, close, a, b, (view.focus * radius) / close[2]);
	context.fill();
	const facing = normalised(close.map((value, i) => value - far[i]));
	if (dot(facing, close) >= 0) return;
	context.beginPath();
	trace(context, rim(close));
	context.fillStyle = lit(body.table, ...facing);
	context.fill();
}

function drawBox(context, view, body, floats, at, fills) {
	const points = CORNERS.map((corner) => {
		const [x, y, z] = turned(floats, at + 3, corner.map((sign, i) => sign * body.size[i]));
		return seen(view, floats[at] + x, floats[at + 1] + y, floats[at + 2] + z);
	});
	if (points.some((point) => point[2] < 0.02)) return;
	FACES.forEach((face) => {
		const [a, b, c] = face.map((index) => points[index]);
		const [u, v] = [b.map((value, i) => value - a[i]), c.map((value, i) => value - b[i])];
		const normal = normalised(cross(u, v)); // outwards, as the camera's axes are left-handed
		if (dot(normal, a) >= 0) return;
		context.beginPath();
		trace(context, face.map((index) => place(view, points[index])));
		context.stroke();
		if (!fills) return;
		context.fillStyle = lit(body.table, ...normal);
		context.fill();
	});
}

/** Draws the hull of a mesh, which stands for it where there is no WebGL. */
function drawHull(context, view, body, floats, at, fills) {
	const points = body.outline.map((point) => {
		const [x, y, z] = turned(floats, at + 3, point);
		return seen(view, floats[at] + x, floats[at + 1] + y, floats[at + 2] + z);
	});
	if (points.some((point) => point[2] < 0.02)) return;
	const around = hull(points.map((point) => place(view, point)));
	context.beginPath();
	trace(context, around);
	context.stroke();
	if (!fills) return;
	const [xs, ys] = [0, 1].map((axis) => around.map((point) => point[axis]));
	const [left, right, top, bottom] = [xs, ys].flatMap((all) => [Math.min(...all), Math.max(...all)]);
	context.fillStyle = ballPaint(context, body.table, (left + right) / 2, (top + bottom) / 2,
		Math.max(1, Math.hypot(right - left, bottom - top) / 2));
	context.fill();
}

/** Draws a straight piece of a tendon, between the two points that its pose holds. */
function drawCord(context, view, body, floats, at, fills) {
	const [a, b] = [at, at + 3].map((i) => seen(view, floats[i], floats[i + 1], floats[i + 2]));
	if (Math.min(a[2], b[2]) < 0.02 || a.every((value, i) => value === b[i])) return;
	const [from, to] = [place(view, a), place(view, b)];
	context.beginPath();
	capsulePath(context, from, (view.focus * body.size[0]) / a[2], to, (view.focus * body.size[0]) / b[2]);
	context.stroke();
	if (!fills) return;
	context.fillStyle = bright(body.table, 0.7);
	context.fill();
}

const DRAWERS = {
	capsule: drawCapsule, sphere: drawEllipsoid, ellipsoid: drawEllipsoid, cylinder: drawCylinder,
	box: drawBox, plane: drawBox, mesh: drawHull, cord: drawCord,
};
