// Fetches and decodes the clips of a query before it is shown, and makes their drawers.

import { get, getBytes } from "./api.js";
import { PoseDrawer } from "./draw2d.js";
import { FrameDrawer } from "./frames.js";
import { TextDrawer } from "./text.js";
import { TraceDrawer, rangeOf } from "./trace.js";

/** A clip that cannot be shown; its query is skipped. */
export class Damaged extends Error {}

const scenes = new Map();

function sceneAt(url) {
	if (!scenes.has(url)) {
		const promise = get(url);
		promise.catch(() => scenes.delete(url));
		scenes.set(url, promise);
	}
	return scenes.get(url);
}

/** Returns what draws a scene's meshes; it is asked for only where there are any. */
const layerOf = async (scene) => (await import("./layer.js")).layerFor(scene);

async function loadPoses(clip, distance) {
	const [scene, bytes] = await Promise.all([sceneAt(clip.scene), getBytes(clip.url)]);
	const stride = 3 + 7 * scene.geoms.length;
	if (bytes.byteLength !== 4 * stride * clip.frames) throw new Damaged("a clip has the wrong length");
	const floats = new Float32Array(bytes);
	if (!floats.every(Number.isFinite)) throw new Damaged("a clip holds numbers that are not finite");
	const layer = scene.meshes?.length ? await layerOf(scene) : null;
	return { ...clip, scene, floats, stride, distance, layer };
}

async function loadFrames(clip) {
	const image = await createImageBitmap(new Blob([await getBytes(clip.url)])).catch(() => null);
	const rows = Math.ceil(Math.ceil(clip.frames / clip.every) / clip.columns);
	const fits = image && image.width >= clip.columns * clip.width && image.height >= rows * clip.height;
	if (!fits) throw new Damaged("a clip's pictures cannot be decoded");
	return { ...clip, image };
}

/** Fetches and decodes one clip; `distance` is that of the camera. */
export async function loadClip(clip, distance = clip.distance) {
	if (clip.form === "poses") return loadPoses(clip, distance || 4);
	if (clip.form === "frames") return loadFrames(clip);
	if (clip.form === "text") return { ...clip, frames: 1, dt: 1 };
	if (clip.form === "trace") return clip;
	throw new Damaged(`this page cannot show clips of the form ${clip.form}`);
}

/** Fetches and decodes all clips of a query. */
export async function loadQuery(query) {
	const distance = Math.max(...query.clips.map((clip) => clip.distance ?? 0));
	const clips = await Promise.all(query.clips.map((clip) => loadClip(clip, distance)));
	return { query, clips: onOneScale(clips) };
}

/** Gives the series of clips the same ranges: the same height means the same number in each. */
function onOneScale(clips) {
	if (clips.some((clip) => clip.form !== "trace")) return clips;
	const ranges = clips[0].values.map((_, index) => rangeOf(clips.flatMap((clip) => clip.values[index] ?? [])));
	return clips.map((clip) => ({ ...clip, ranges }));
}

const DRAWERS = { poses: PoseDrawer, frames: FrameDrawer, text: TextDrawer, trace: TraceDrawer };

/** Makes the drawer of a clip: `draw(frame, options)` on the canvas, or on the page for texts. */
export function makeDrawer(clip, canvas, camera, page = null) {
	return new DRAWERS[clip.form](clip, canvas, camera, page);
}

/** Gives a canvas as many pixels as it is shown with, or fewer (`fit.finest` for each CSS pixel). */
export function fit(canvas) {
	const ratio = Math.min(devicePixelRatio, fit.finest);
	const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
	const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
	if (canvas.width === width && canvas.height === height) return false;
	Object.assign(canvas, { width, height });
	return true;
}
fit.finest = 2;
