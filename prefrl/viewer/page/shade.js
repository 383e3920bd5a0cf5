// Light and colour. The lamp stands over the viewer's left shoulder and turns with the camera.

/** Towards the lamp, in the camera's axes (right, up, forward). */
export const LAMP = normalised([-0.42, 0.72, -0.55]);

/** Scales a vector to length one. */
export function normalised(vector) {
	const length = Math.hypot(...vector) || 1;
	return vector.map((value) => value / length);
}

const STEPS = 48;
let tables = new Map();

/** How bright a colour is, from 0 to 1, as WCAG defines it. */
function luminance(colour) {
	const [red, green, blue] = colour.map((value) =>
		(value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
	return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Makes a colour stronger, then paler, until it is bright enough to be seen before a dark floor. */
function lifted(colour, least) {
	const most = 1 / Math.max(...colour, 0.01);
	let strong = colour;
	for (let factor = 1; luminance(strong) < least && factor < most; factor *= 1.04) {
		strong = colour.map((value) => Math.min(1, value * factor));
	}
	let pale = strong;
	for (let part = 0; luminance(pale) < least && part < 1; part += 0.04) {
		pale = strong.map((value) => value + part * (1 - value));
	}
	return pale;
}

/** Returns the colour that a material is drawn with: bright enough for the page's floor. */
export const material = (colour) => lifted(colour, Number(colours().least));

function build(red, green, blue, alpha) {
	const shown = material([red, green, blue]);
	const table = [];
	for (let i = 0; i <= STEPS; i += 1) {
		const light = i / STEPS; // 0 turned away from the lamp, 1 facing it
		const body = 0.36 + 0.72 * light ** 1.25;
		const shine = Math.max(0, light - 0.8) * 0.9;
		const cool = [0.93, 0.97, 1.1].map((tint) => tint + (1 - tint) * Math.min(1, light * 1.6));
		const mixed = shown.map((value, channel) => {
			const lit = Math.min(1, value * body * cool[channel]);
			return Math.round(255 * (lit + (1 - lit) * shine));
		});
		table.push(`rgba(${mixed.join(",")},${alpha})`);
	}
	return table;
}

/** Returns the colours of a material, from shadow to light; built once for each material. */
export function shades([red, green, blue, alpha]) {
	const key = `${red},${green},${blue},${alpha}`;
	if (!tables.has(key)) tables.set(key, build(red, green, blue, alpha));
	return tables.get(key);
}

/** Picks a colour for a surface whose normal is given in the camera's axes. */
export function lit(table, x, y, z) {
	const light = 0.5 + 0.5 * (x * LAMP[0] + y * LAMP[1] + z * LAMP[2]);
	return table[Math.round(Math.min(Math.max(light, 0), 1) * STEPS)];
}

/** Picks the colour for an amount of light from 0 to 1. */
export const bright = (table, light) => table[Math.round(Math.min(Math.max(light, 0), 1) * STEPS)];

let palette = null;

/** Reads the page's colours for pictures; they differ in light and dark. */
export function colours() {
	if (palette) return palette;
	const style = getComputedStyle(document.documentElement);
	const names = ["sky-top", "sky-low", "floor", "tile", "shadow", "ghost", "other", "edge", "rim", "least", "ink",
		"muted", "rule", "line-1", "line-2", "line-3", "line-4"];
	palette = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
	palette.version = performance.now();
	tables = new Map();
	return palette;
}

/** Calls back when the person's system turns light or dark. */
export function onTheme(callback) {
	matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
		palette = null;
		callback();
	});
}
