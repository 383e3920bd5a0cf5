// Fetches the meshes of a scene, and makes triangles with normals of meshes and plain solids.

import { getBytes } from "./api.js";
import { normalised } from "./shade.js";

const FULL = 65535; // a corner at the far side of its mesh's box
const CREASE = Math.cos((40 * Math.PI) / 180); // faces that meet at a sharper angle show an edge
const ROUND = 14; // sides of what is round
const STRIDE = 7; // numbers of a corner: x y z, its normal, and the end of a capsule that it belongs to

/** Fetches one mesh of a scene: `STRIDE` numbers for each corner, and three indices for each triangle. */
export async function loadMesh({ url, vertices, triangles, low, high }) {
	const bytes = await getBytes(url);
	const steps = new Uint16Array(bytes, 0, 3 * vertices);
	const corners = new Uint16Array(bytes, 6 * vertices, 3 * triangles);
	const places = Float32Array.from(steps, (step, i) => low[i % 3] + (step / FULL) * (high[i % 3] - low[i % 3]));
	return creased(places, corners);
}

/** Lays smooth normals over corners at which faces meet bluntly. */
function creased(places, corners) {
	const faces = new Float32Array(corners.length); // the normal of each triangle, as long as it is large
	const used = Array.from({ length: places.length / 3 }, () => []);
	for (let at = 0; at < corners.length; at += 3) {
		const [a, b, c] = [0, 1, 2].map((i) => 3 * corners[at + i]);
		const [ux, uy, uz] = [0, 1, 2].map((i) => places[b + i] - places[a + i]);
		const [vx, vy, vz] = [0, 1, 2].map((i) => places[c + i] - places[a + i]);
		faces.set([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], at);
		for (let i = 0; i < 3; i += 1) used[corners[at + i]].push(at);
	}
	const lengths = Float32Array.from({ length: corners.length / 3 }, (_, i) =>
		Math.hypot(faces[3 * i], faces[3 * i + 1], faces[3 * i + 2]) || 1e-12);
	const out = [];
	const made = Array.from(used, () => []); // of each corner, the normals that it has by now, and their indices
	const indices = Uint16Array.from(corners, (corner, index) => {
		const face = index - (index % 3);
		const sum = [0, 0, 0];
		for (const near of used[corner]) {
			const dot = faces[face] * faces[near] + faces[face + 1] * faces[near + 1] + faces[face + 2] * faces[near + 2];
			if (dot < CREASE * lengths[face / 3] * lengths[near / 3]) continue;
			for (let i = 0; i < 3; i += 1) sum[i] += faces[near + i];
		}
		const normal = normalised(sum);
		const alike = made[corner].find(([other]) => other.every((value, i) => Math.abs(value - normal[i]) < 0.1));
		if (alike) return alike[1];
		made[corner].push([normal, out.length / STRIDE]);
		out.push(...places.subarray(3 * corner, 3 * corner + 3), ...normal, 0);
		return out.length / STRIDE - 1;
	});
	return { corners: Float32Array.from(out), indices };
}

/** Makes a grid of triangles: `at(u, v)` gives a corner and its normal for u and v from 0 to 1. */
function grid(columns, rows, at) {
	const [corners, indices] = [[], []];
	for (let row = 0; row <= rows; row += 1) {
		for (let column = 0; column <= columns; column += 1) {
			const first = corners.length / STRIDE;
			corners.push(...at(column / columns, row / rows));
			if (row === rows || column === columns) continue;
			const below = first + columns + 1;
			indices.push(first, first + 1, below, first + 1, below + 1, below);
		}
	}
	return { corners, indices };
}

/** Returns whether a triangle turns counterclockwise when seen from outside. */
function outwards(corners, ...triangle) {
	const [a, b, c] = triangle.map((index) => corners.slice(STRIDE * index, STRIDE * index + 6));
	const [u, v] = [b, c].map((corner) => corner.slice(0, 3).map((value, i) => value - a[i]));
	const [x, y, z] = [0, 1, 2].map((i) => a[3 + i] + b[3 + i] + c[3 + i]);
	return x * (u[1] * v[2] - u[2] * v[1]) + y * (u[2] * v[0] - u[0] * v[2]) + z * (u[0] * v[1] - u[1] * v[0]) > 0;
}

/** Puts grids together as one solid, of which every triangle turns the same way. */
function joined(...grids) {
	const [corners, indices] = [[], []];
	for (const part of grids) {
		const first = corners.length / STRIDE;
		corners.push(...part.corners);
		for (let at = 0; at < part.indices.length; at += 3) {
			const [a, b, c] = part.indices.slice(at, at + 3).map((index) => first + index);
			indices.push(a, ...(outwards(corners, a, b, c) ? [b, c] : [c, b]));
		}
	}
	return { corners: Float32Array.from(corners), indices: Uint16Array.from(indices) };
}

const around = (u) => [Math.cos(2 * Math.PI * u), Math.sin(2 * Math.PI * u)];

function ball(u, v, end = 0) {
	const [c, s] = around(u);
	const [r, z] = [Math.sin(Math.PI * v), Math.cos(Math.PI * v)];
	return [r * c, r * s, z, r * c, r * s, z, end];
}

function face(axis, side) {
	return grid(1, 1, (u, v) => {
		const [corner, normal] = [[0, 0, 0], [0, 0, 0]];
		[corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3]] = [side, 2 * u - 1, 2 * v - 1];
		normal[axis] = side;
		return [...corner, ...normal, 0];
	});
}

const lid = (side) => grid(ROUND, 1, (u, v) => [...around(u).map((x) => v * x), side, 0, 0, side, 0]);

/** The solids of size 1; a capsule's corners say which end they belong to, so that it can be stretched. */
export const SOLIDS = {
	ball: () => joined(grid(ROUND, 8, ball)),
	capsule: () => joined(
		grid(ROUND, 4, (u, v) => ball(u, v / 2, 1)),
		grid(ROUND, 1, (u, v) => ball(u, 0.5, 1 - 2 * v)),
		grid(ROUND, 4, (u, v) => ball(u, 0.5 + v / 2, -1)),
	),
	cylinder: () => joined(grid(ROUND, 1, (u, v) => [...around(u), 2 * v - 1, ...around(u), 0, 0]), lid(1), lid(-1)),
	box: () => joined(...[0, 1, 2].flatMap((axis) => [face(axis, -1), face(axis, 1)])),
};
