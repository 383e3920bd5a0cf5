// Sky, floor and what lies on the floor: a checker that shows motion, haze, shadows.

import { colours } from "./shade.js";

const REACH = 13; // tiles drawn to each side of the followed point

// The side of a tile for a camera this far away: 1 m, or a tenth, a fifth, a half, …
function tileSize(distance) {
	const wanted = distance / 3.4;
	const power = 10 ** Math.floor(Math.log10(wanted));
	return [5, 2, 1].find((factor) => factor * power <= wanted * 1.15) * power || power;
}

/** Cuts a polygon in camera coordinates (right, up, forward) at the near plane and projects it. */
export function projected(view, points, near) {
	const flat = [];
	for (let i = 0; i < points.length; i += 1) {
		const [a, b] = [points[i], points[(i + 1) % points.length]];
		if (a[2] >= near) flat.push(place(view, a));
		if (a[2] >= near !== b[2] >= near) {
			const t = (near - a[2]) / (b[2] - a[2]);
			flat.push(place(view, a.map((value, axis) => value + t * (b[axis] - value))));
		}
	}
	return flat;
}

/** Projects a point in camera coordinates. */
export const place = (view, [x, y, z]) =>
	[view.cx + (view.focus * x) / z, view.cy - (view.focus * y) / z];

/** Turns a point of the world into camera coordinates. */
export function seen({ eye, right, up, forward }, x, y, z) {
	const [dx, dy, dz] = [x - eye[0], y - eye[1], z - eye[2]];
	return [
		dx * right[0] + dy * right[1],
		dx * up[0] + dy * up[1] + dz * up[2],
		dx * forward[0] + dy * forward[1] + dz * forward[2],
	];
}

/** Adds a polygon to the path. */
export function trace(context, polygon) {
	if (polygon.length < 3) return;
	context.moveTo(polygon[0][0], polygon[0][1]);
	for (let i = 1; i < polygon.length; i += 1) context.lineTo(polygon[i][0], polygon[i][1]);
	context.closePath();
}

/** Draws the sky and the floor of one clip. */
export class Ground {
	/** `extent` is [half x, half y] of a floor that ends in sight, else null; `height` null: none. */
	constructor({ height, extent }, distance) {
		Object.assign(this, { height, extent, tile: tileSize(distance), key: "" });
	}

	draw(context, view, target) {
		const { width, height } = context.canvas;
		this.#prepare(context, view);
		context.fillStyle = this.sky;
		context.fillRect(0, 0, width, this.extent || this.height === null ? height : this.horizon + 1);
		if (this.height === null) return;
		const palette = colours();
		if (this.extent) {
			const [x, y] = this.extent;
			const corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([a, b]) => seen(view, a, b, this.height));
			context.beginPath();
			trace(context, projected(view, corners, 0.02));
			context.fillStyle = palette.floor;
			context.fill();
		} else if (this.horizon < height) {
			context.fillStyle = palette.floor;
			context.fillRect(0, this.horizon, width, height);
		}
		this.#tiles(context, view, target);
		context.fillStyle = palette.tile;
		context.fill();
		if (this.extent || this.horizon >= height) return;
		context.fillStyle = this.haze;
		context.fillRect(0, this.horizon, width, this.clear);
	}

	#prepare(context, view) {
		const { width, height } = context.canvas;
		const key = [width, height, view.elevation, view.focus, view.away, colours().version].join();
		if (key === this.key) return;
		this.key = key;
		const palette = colours();
		this.horizon = Math.max(0, view.cy + view.focus * Math.tan(view.elevation));
		const level = this.extent ? height : Math.max(this.horizon, 1);
		this.sky = context.createLinearGradient(0, -0.1 * height, 0, level);
		this.sky.addColorStop(0, palette["sky-top"]);
		this.sky.addColorStop(1, palette["sky-low"]);
		if (this.horizon >= height) return;
		this.haze = context.createLinearGradient(0, this.horizon, 0, height);
		const above = Math.max(0.2, -Math.sin(view.elevation)) * view.focus; // the eye's height, at first
		const far = Math.min((REACH * this.tile) / view.away, 6); // beyond it no tiles are drawn
		this.clear = above / 0.9;
		for (let i = 0; i <= 12; i += 1) {
			const part = (i / 12) ** 2;
			const drop = part * (height - this.horizon) + 1e-3;
			const clear = Math.min(1, Math.max(0, (far - above / drop) / (far - 0.9)));
			const cover = Math.round(255 * (1 - clear ** 1.5)).toString(16).padStart(2, "0");
			this.haze.addColorStop(part, palette["sky-low"] + cover);
		}
	}

	#tiles(context, view, target) {
		const { tile } = this;
		const origin = [0, 1].map((axis) => Math.round(target[axis] / tile / 2) * 2 - REACH);
		const side = 2 * REACH + 1;
		const limit = (value, axis) =>
			this.extent ? Math.min(Math.max(value, -this.extent[axis]), this.extent[axis]) : value;
		const points = [];
		for (let j = 0; j < side; j += 1) {
			const y = limit((origin[1] + j) * tile, 1);
			for (let i = 0; i < side; i += 1) {
				points.push(seen(view, limit((origin[0] + i) * tile, 0), y, this.height));
			}
		}
		context.beginPath();
		for (let j = 0; j < side - 1; j += 1) {
			for (let i = j % 2; i < side - 1; i += 2) {
				const first = j * side + i;
				this.#quad(context, view, points[first], points[first + 1], points[first + side + 1],
					points[first + side]);
			}
		}
	}

	#quad(context, view, ...corners) {
		const { width, height } = context.canvas;
		const near = 0.05 * view.away;
		if (corners.every((corner) => corner[2] < near)) return;
		const flat = projected(view, corners, near);
		if (flat.every(([x]) => x < 0) || flat.every(([x]) => x > width) || flat.every(([, y]) => y > height)) return;
		trace(context, flat);
	}
}
