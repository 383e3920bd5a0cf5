// What is told beforehand: plain sentences, and small pictures of the robot that move.

import { Camera } from "./camera.js";
import { fit, loadClip, makeDrawer } from "./clips.js";
import { element, visible } from "./dom.js";

const MARKED = [0.9, 0.05, 0.5, 1];
const REST = 600; // milliseconds for which the last pose stays
const GREY = 0.75;

/** Returns the sentences and pictures of a guide, as nodes. */
export function guideNodes({ sentences = [], pictures = [] } = {}) {
	const list = element("ul", { className: "guide" }, ...sentences.map((sentence) =>
		element("li", { dir: "auto" }, visible(sentence))));
	const row = element("div", { className: "guide-pictures" }, ...pictures.map(pictured));
	return [sentences.length ? list : null, pictures.length ? row : null].filter(Boolean);
}

function pictured(described) {
	const canvas = element("canvas");
	canvas.setAttribute("role", "img");
	canvas.setAttribute("aria-label", visible(described.caption));
	move(canvas, described).catch(() => canvas.remove()); // the caption says it, too
	return element("figure", {}, canvas, element("figcaption", { dir: "auto" }, visible(described.caption)));
}

/** Draws a picture, again and again for as long as it is on the page. */
async function move(canvas, described) {
	const clip = await loadClip(described);
	const drawer = makeDrawer(described.marked?.length ? { ...clip, scene: marking(clip.scene, described.marked) } : clip,
		canvas, new Camera());
	const still = matchMedia("(prefers-reduced-motion: reduce)").matches || clip.frames < 2;
	const began = performance.now();
	const lasts = 1000 * clip.frames * clip.dt;
	const draw = (now) => {
		if (!canvas.isConnected) return;
		const frame = still ? Math.floor(clip.frames / 2) : (((now - began) % (lasts + REST)) / 1000) / clip.dt;
		if (canvas.offsetParent) {
			fit(canvas);
			drawer.draw(Math.min(frame, clip.frames - 1), { ghost: "none" });
			canvas.dataset.frame = Math.floor(Math.min(frame, clip.frames - 1));
		}
		if (!still || !canvas.dataset.frame) requestAnimationFrame(draw);
	};
	requestAnimationFrame(draw);
}

/** Gives some parts a colour that stands out from the others. */
function marking(scene, marked) {
	const pale = ([r, g, b, alpha]) => [...[r, g, b].map((x) => 0.15 * x + 0.85 * GREY), alpha];
	return { ...scene, geoms: scene.geoms.map((geom, index) =>
		geom.floor ? geom : { ...geom, rgba: marked.includes(index) ? MARKED : pale(geom.rgba) }) };
}
