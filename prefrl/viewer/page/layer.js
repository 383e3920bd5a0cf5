// Draws solids and meshes with WebGL, where a scene has meshes: a layer over the floor and the shadows.

import { SOLIDS, loadMesh } from "./meshes.js";
import { LAMP, colours, material, normalised } from "./shade.js";

const SHAPES = {
	sphere: "ball", ellipsoid: "ball", capsule: "capsule", cylinder: "cylinder", box: "box", plane: "box", cord: "capsule",
};
const BUDGET = 16; // milliseconds for a picture; a slower computer gets a coarser one
const SCALES = [1, 0.75, 0.5];
const [HEAD, POSE] = [3, 7]; // as in draw2d.js

const CORNERS = `#version 300 es
in vec3 corner; in vec3 normal; in float end;
uniform vec3 size, middle, eye, right, up, forward; uniform vec4 turn; uniform float reach, rim;
uniform vec2 lens, depth, pixel;
out vec3 facing, from; out float height;
vec3 turned(vec3 v) { vec3 t = 2.0 * cross(turn.yzw, v); return v + turn.x * t + cross(turn.yzw, t); }
vec3 seen(vec3 v) { return vec3(dot(v, right), dot(v, up), dot(v, forward)); }
void main() {
	vec3 place = middle + turned(corner * size + vec3(0, 0, end * reach));
	height = place.z;
	from = seen(place - eye);
	facing = seen(turned(normalize(normal / size)));
	// A rim is the same solid a little larger and a little further away, so only its edge is seen.
	float far = from.z + rim * 0.2 * depth.x;
	gl_Position = vec4(from.xy * lens, ((depth.x + depth.y) * far - 2.0 * depth.x * depth.y) / (depth.y - depth.x), from.z);
	vec2 away = facing.xy / max(length(facing.xy), 1e-3);
	gl_Position.xy += rim * away * pixel * from.z;
}`;

const COLOURS = `#version 300 es
precision highp float;
in vec3 facing, from; in float height;
uniform vec3 lamp; uniform vec4 colour; uniform float rim, floor_;
out vec4 shown;
void main() {
	if (height < floor_) discard;
	vec3 n = normalize(facing);
	if (dot(n, from) > 0.0) n = -n;
	float light = 0.5 + 0.5 * dot(n, lamp);
	vec3 cool = mix(vec3(0.93, 0.97, 1.1), vec3(1), min(1.0, 1.6 * light));
	vec3 lit = min(vec3(1), colour.rgb * (0.36 + 0.72 * pow(light, 1.25)) * cool);
	lit += (1.0 - lit) * max(0.0, light - 0.8) * 0.9;
	shown = vec4(mix(lit, colour.rgb, rim) * colour.a, colour.a);
}`;

/** Says whether a graphics card draws; the processor alone smooths no edges, and draws coarser pictures. */
function hasCard() {
	const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
	const names = gl?.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl?.RENDERER;
	const card = gl && !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(gl.getParameter(names));
	gl?.getExtension("WEBGL_lose_context")?.loseContext();
	return Boolean(card);
}

/** One canvas for all clips on the page, since a browser keeps few that draw with WebGL. */
class Layer {
	constructor() {
		this.canvas = document.createElement("canvas");
		const fast = hasCard();
		this.gl = this.canvas.getContext("webgl2", { antialias: fast });
		if (!this.gl) return;
		this.canvas.addEventListener("webglcontextlost", () => (this.gl = null));
		Object.assign(this, { arrays: new Map(), level: fast ? "fine" : "coarse", pace: 0, scale: fast ? 0 : 1 });
		this.#compile();
	}

	#compile() {
		const { gl } = this;
		const program = gl.createProgram();
		for (const [kind, source] of [[gl.VERTEX_SHADER, CORNERS], [gl.FRAGMENT_SHADER, COLOURS]]) {
			const shader = gl.createShader(kind);
			gl.shaderSource(shader, source);
			gl.compileShader(shader);
			gl.attachShader(program, shader);
		}
		["corner", "normal", "end"].forEach((name, index) => gl.bindAttribLocation(program, index, name));
		gl.linkProgram(program);
		if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
		gl.useProgram(program);
		const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
		this.at = Object.fromEntries(Array.from({ length: count }, (_, i) => gl.getActiveUniform(program, i).name)
			.map((name) => [name, gl.getUniformLocation(program, name)]));
		gl.enable(gl.DEPTH_TEST);
		gl.depthFunc(gl.LEQUAL);
		gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
	}

	/** Keeps triangles on the graphics card, under a name. */
	keep(name, { corners, indices }) {
		const { gl } = this;
		const array = gl.createVertexArray();
		gl.bindVertexArray(array);
		gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
		gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
		gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
		gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
		[[3, 0], [3, 12], [1, 24]].forEach(([size, offset], index) => {
			gl.enableVertexAttribArray(index);
			gl.vertexAttribPointer(index, size, gl.FLOAT, false, 28, offset);
		});
		this.arrays.set(name, { array, count: indices.length });
	}

	/** Draws the solids of `order`, from back to front, over a picture; returns whether it could. */
	draw(context, view, solids, order, pose, floor) {
		if (!this.gl) return false;
		const began = performance.now();
		const { width, height } = context.canvas;
		const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * SCALES[this.scale])));
		this.#begin(view, w, h, width, floor);
		const there = order.map((index) => this.#solid(solids[index], pose, HEAD + POSE * index));
		this.#pass(there.filter(({ colour }) => colour[3] >= 0.99));
		this.#pass(there.filter(({ colour }) => colour[3] < 0.99), true);
		context.imageSmoothingEnabled = true;
		context.drawImage(this.canvas, 0, this.canvas.height - h, w, h, 0, 0, width, height);
		this.#pacing(performance.now() - began);
		return true;
	}

	/** Gets coarser while pictures take too long; what is drawn in software does. */
	#pacing(took) {
		this.pace += 0.1 * (Math.min(took, 50) - this.pace);
		if (this.pace <= BUDGET || this.scale === SCALES.length - 1) return;
		this.scale += 1;
		this.pace = 0;
	}

	#begin(view, w, h, width, floor) {
		const { gl, at, canvas } = this;
		if (canvas.width < w) canvas.width = w;
		if (canvas.height < h) canvas.height = h;
		gl.viewport(0, 0, w, h);
		gl.clearColor(0, 0, 0, 0); // all of it, or the edge of a larger picture before would show at this one's
		gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
		for (const name of ["eye", "right", "up", "forward"]) gl.uniform3fv(at[name], view[name]);
		gl.uniform3fv(at.lamp, LAMP);
		gl.uniform2f(at.lens, view.focus / view.cx, view.focus / view.cy);
		gl.uniform2f(at.depth, 0.05 * view.away, 8 * view.away); // near and far
		const line = 1.5 * Math.max(1, (view.cy * 2) / 260);
		gl.uniform2f(at.pixel, line / view.cx, line / view.cy);
		gl.uniform1f(at.floor_, floor !== null && view.eye[2] > floor ? floor - 1e-4 : -1e9);
	}

	#solid(body, pose, at) {
		const [x, y, z, ...rest] = pose.subarray(at, at + POSE);
		const { array, count } = this.arrays.get(body[this.level]?.url ?? SHAPES[body.type]);
		if (body.version !== colours().version) {
			Object.assign(body, { version: colours().version, lit: [...material(body.rgba.slice(0, 3)), body.rgba[3]] });
		}
		const solid = { array, count, middle: [x, y, z], turn: rest, size: body.size, reach: 0, colour: body.lit,
			closed: body.type !== "mesh" };
		if (body.type === "capsule") Object.assign(solid, { reach: body.size[1], size: Array(3).fill(body.size[0]) });
		if (body.type === "cylinder") solid.size = [body.size[0], body.size[0], body.size[1]];
		if (body.type === "mesh") solid.size = [1, 1, 1];
		if (body.type === "cord") Object.assign(solid, stretched([x, y, z], [...rest], body.size[0]));
		return solid;
	}

	#pass(solids, transparent = false) {
		const { gl } = this;
		gl.depthMask(!transparent);
		if (transparent) gl.enable(gl.BLEND);
		else gl.disable(gl.BLEND);
		const rim = rimColour();
		for (const solid of solids) this.#put(solid, solid.colour, 0);
		if (!transparent) for (const solid of solids) this.#put(solid, rim, 1);
		gl.depthMask(true);
	}

	#put({ array, count, middle, turn, size, reach, closed }, colour, rim) {
		const { gl, at } = this;
		if (closed) gl.enable(gl.CULL_FACE);
		else gl.disable(gl.CULL_FACE);
		gl.cullFace(rim ? gl.FRONT : gl.BACK);
		gl.bindVertexArray(array);
		gl.uniform3fv(at.middle, middle);
		gl.uniform4fv(at.turn, turn);
		gl.uniform3fv(at.size, size);
		gl.uniform1f(at.reach, reach);
		gl.uniform4fv(at.colour, colour);
		gl.uniform1f(at.rim, rim);
		gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_SHORT, 0);
	}
}

/** Returns the capsule between both ends of a cord. */
function stretched(a, b, radius) {
	const [x, y, z] = [0, 1, 2].map((i) => b[i] - a[i]);
	const length = Math.hypot(x, y, z);
	const turn = z < -0.999999 * length ? [0, 1, 0, 0] : normalised([length + z, -y, x, 0]);
	const middle = a.map((value, i) => (value + b[i]) / 2);
	return { middle, turn, reach: length / 2, size: Array(3).fill(radius) };
}

function rimColour() {
	const hex = colours().rim.slice(1).match(/../g).map((pair) => parseInt(pair, 16) / 255);
	return [hex[0], hex[1], hex[2], 1];
}

let shared = null;
const ready = new WeakMap();

/** Returns what draws a scene with meshes, once these are there; null where there is no WebGL. */
export function layerFor(scene) {
	shared ??= new Layer();
	if (!shared.gl) return null;
	if (!ready.has(scene)) {
		const promise = fill(scene);
		promise.catch(() => ready.delete(scene));
		ready.set(scene, promise);
	}
	return ready.get(scene);
}

async function fill(scene) {
	const wanted = scene.meshes.map((mesh) => mesh[shared.level]);
	const meshes = await Promise.all(wanted.map(loadMesh));
	if (!shared.gl) return null;
	wanted.forEach(({ url }, index) => shared.keep(url, meshes[index]));
	for (const [name, make] of Object.entries(SOLIDS)) if (!shared.arrays.has(name)) shared.keep(name, make());
	return shared;
}
