// Draws poses: solids from back to front over a floor that shows motion, with shadows and a ghost.

import { Ground, place, projected, seen, trace } from "./ground.js";
import { colours, LAMP, shades } from "./shade.js";
import { capsulePath, hull, solid, turned } from "./solids.js";

const CIRCLE = Array.from({ length: 10 }, (_, i) =>
	[Math.cos((i / 10) * 2 * Math.PI), Math.sin((i / 10) * 2 * Math.PI)]);
const POSE = 7; // numbers for each geom: x y z and a quaternion
const HEAD = 3; // numbers before the first geom: the point that the camera follows
const SLANT = 0.3; // how far shadows fall aside; small, so that a height can be read from them

/** Draws one clip of poses onto a canvas; `camera` is shared with all other clips. */
export class PoseDrawer {
	constructor(clip, canvas, camera) {
		Object.assign(this, { clip, canvas, camera, frames: clip.frames });
		this.context = canvas.getContext("2d", { alpha: false });
		this.pose = new Float32Array(clip.stride);
		const { geoms, meshes = [] } = clip.scene;
		this.solids = geoms.map((geom, index) => solid({ ...geom, ...clip.changes?.[index] }, meshes[geom.mesh]));
		this.moving = [...this.solids.keys()]
			.filter((index) => !this.solids[index].floor && this.solids[index].rgba[3] > 0.04);
		this.order = [...this.moving];
		this.depths = new Float32Array(this.solids.length);
		this.ground = new Ground(floorOf(clip), clip.distance);
	}

	/** Draws a frame; a fraction is drawn between two frames. `other`: a drawer to show as a ghost. */
	draw(position, { ghost = "start", other = null } = {}) {
		const { clip, context, canvas, pose } = this;
		const at = Math.min(Math.max(position, 0), this.frames - 1);
		blend(clip, at, pose);
		const view = this.camera.project(clip, this.ground.height, pose, canvas);
		this.ground.draw(context, view, pose);
		if (ghost === "start") this.#ghostStart(view);
		if (this.ground.height !== null) this.#shadows(view);
		if (ghost === "other" && other) this.#ghostOther(view, other, at);
		if (!clip.layer?.draw(context, view, this.solids, this.#sorted(view), pose, this.ground.height)) this.#solids(view);
	}

	/** Draws the solids over a rim that is told from any floor and sky, as not all colours are. */
	#solids(view) {
		const { context, canvas, pose, solids } = this;
		const palette = colours();
		if (this.version !== palette.version) solids.forEach((body) => (body.table = shades(body.rgba)));
		this.version = palette.version;
		const order = this.#sorted(view);
		const line = Math.max(1, canvas.height / 260);
		context.lineJoin = "round";
		for (const [style, width, fills] of [[palette.rim, 3 * line, false], [palette.edge, line, true]]) {
			context.strokeStyle = style;
			context.lineWidth = width;
			for (const index of order) {
				const body = solids[index];
				if (fills || casts(body)) body.draw(context, view, body, pose, HEAD + POSE * index, fills);
			}
		}
	}

	#sorted(view) {
		const { pose, depths } = this;
		for (const index of this.moving) {
			const at = HEAD + POSE * index;
			const depth = seen(view, pose[at], pose[at + 1], pose[at + 2])[2];
			depths[index] = depth + (this.solids[index].type === "plane" ? 100 : 0); // walls come first
		}
		return this.order.sort((a, b) => depths[b] - depths[a]);
	}

	#shadows(view) {
		const { context, pose, moving } = this;
		const side = [0, 1].map((axis) =>
			SLANT * (view.right[axis] * LAMP[0] + view.forward[axis] * LAMP[2]));
		const balls = [];
		for (const index of moving.filter((each) => casts(this.solids[each]))) {
			balls.push(this.solids[index].balls.map((ball) => placed(pose, HEAD + POSE * index, ball)));
		}
		context.fillStyle = colours().shadow;
		// Rims that widen with height, a core, and a spot where something touches.
		for (const grow of [
			(radius, height) => radius * 1.5 + 0.04 + 0.09 * height,
			(radius, height) => radius * 1.2 + 0.02 + 0.04 * height,
			(radius, height) => radius * 0.9 - 0.02 * height,
			(radius, height) => 0.9 * radius - height,
		]) {
			context.beginPath();
			for (const group of balls) this.#blot(view, group, side, grow);
			context.fill();
		}
	}

	#blot(view, group, side, grow) {
		const floor = this.ground.height;
		const points = [];
		for (const [x, y, z, radius] of group) {
			const height = Math.max(0, z - radius - floor);
			const size = radius ? grow(radius, height) : grow(0.02, height);
			if (size <= 0) continue;
			const fall = Math.max(0, z - floor);
			for (const [c, s] of CIRCLE) {
				const point = seen(view, x - side[0] * fall + c * size, y - side[1] * fall + s * size, floor);
				if (point[2] < 0.05) return;
				points.push(place(view, point));
			}
		}
		if (points.length) trace(this.context, hull(points));
	}

	#ghostStart(view) {
		const { context, clip } = this;
		const floor = this.ground.height;
		context.fillStyle = colours().ghost;
		context.beginPath();
		silhouette(context, view, this, clip.floats, [0, 0]);
		context.fill();
		if (floor === null) return;
		// A line on the floor from the start to here: how far it came.
		const [x, y] = clip.floats;
		const [a, b] = [seen(view, x, y, floor), seen(view, this.pose[0], this.pose[1], floor)];
		const line = projected(view, [a, b], 0.05);
		if (line.length < 2) return;
		context.strokeStyle = colours().ghost;
		context.lineWidth = this.canvas.height / 130;
		context.lineCap = "round";
		context.setLineDash([context.lineWidth * 0.1, context.lineWidth * 2.4]);
		context.beginPath();
		context.moveTo(...line[0]);
		context.lineTo(...line[1]);
		context.stroke();
		context.setLineDash([]);
	}

	#ghostOther(view, other, at) {
		if (!(other instanceof PoseDrawer)) return;
		const { context, clip } = this;
		blend(other.clip, Math.min(at, other.frames - 1), (other.loan ??= new Float32Array(other.clip.stride)));
		const shift = [0, 1].map((axis) => clip.floats[axis] - other.clip.floats[axis]);
		context.fillStyle = colours().other;
		context.beginPath();
		silhouette(context, view, other, other.loan, shift);
		context.fill();
	}
}

/** Says whether a solid has a rim and casts a shadow: what can be seen through, a mark of a goal say, has none. */
const casts = ({ type, rgba }) => type !== "plane" && rgba[3] >= 0.5;

/** Returns the height of the floor and, where it ends in sight, its half sizes. */
function floorOf({ scene, distance }) {
	const [x = 0, y = 0] = scene.geoms.find((geom) => geom.floor)?.size ?? [];
	const ends = x > 0 && y > 0 && Math.max(x, y) < 3 * distance;
	return { height: scene.floor ?? null, extent: ends ? [x, y] : null };
}

/** Writes the pose at a (fractional) frame into `pose`. */
function blend({ floats, stride, frames, scene }, position, pose) {
	const first = Math.min(Math.floor(position), frames - 1);
	const part = position - first;
	const start = first * stride;
	pose.set(floats.subarray(start, start + stride));
	if (part < 0.01 || first + 1 >= frames) return;
	const next = start + stride;
	for (let i = 0; i < HEAD; i += 1) pose[i] += part * (floats[next + i] - pose[i]);
	for (let at = HEAD; at < stride; at += POSE) {
		if (scene.geoms[(at - HEAD) / POSE].type === "cord") {
			for (let i = 0; i < POSE; i += 1) pose[at + i] += part * (floats[next + at + i] - pose[at + i]);
			continue;
		}
		let dot = 0;
		for (let i = 3; i < POSE; i += 1) dot += floats[start + at + i] * floats[next + at + i];
		const sign = dot < 0 ? -1 : 1; // q and -q are the same turn: take the nearer one
		let norm = 0;
		for (let i = 0; i < POSE; i += 1) {
			const goal = (i < 3 ? 1 : sign) * floats[next + at + i];
			pose[at + i] += part * (goal - pose[at + i]);
			if (i >= 3) norm += pose[at + i] ** 2;
		}
		norm = Math.sqrt(norm) || 1;
		for (let i = 3; i < POSE; i += 1) pose[at + i] /= norm;
	}
}

/** Returns a ball of a solid in the world: x, y, z, radius. */
function placed(floats, at, [offset, radius]) {
	const [x, y, z] = turned(floats, at + 3, offset);
	return [floats[at] + x, floats[at + 1] + y, floats[at + 2] + z, radius];
}

function silhouette(context, view, { solids, moving }, floats, shift) {
	for (const index of moving.filter((each) => casts(solids[each]))) {
		const discs = solids[index].balls.map((ball) => {
			const [x, y, z, radius] = placed(floats, HEAD + POSE * index, ball);
			const point = seen(view, x + shift[0], y + shift[1], z);
			return [...place(view, point), (view.focus * radius) / point[2], point[2]];
		});
		if (discs.some((disc) => disc[3] < 0.05)) continue;
		if (discs.length > 2) trace(context, hull(discs.map(([x, y]) => [x, y])));
		else if (discs.length) capsulePath(context, discs[0], discs[0][2], discs.at(-1), discs.at(-1)[2]);
	}
}
