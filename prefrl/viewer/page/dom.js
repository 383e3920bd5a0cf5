// Small helpers for building the page. Text goes in by textContent only, never as HTML, and the page's own
// texts, which are English in the sources, go in as its language has them.

import { decimal, isPhrase, isolate, phrase } from "./language.js";

export { keep, remember, remembered } from "./memory.js";

const LABELS = ["title", "placeholder"]; // properties that are read, as children and aria-… are

/** Returns the element with this id. */
export const find = (id) => document.getElementById(id);

/** Builds an element; `data` and `aria` are objects, everything else is assigned as a property. Texts of the
 * page are translated; those of a model or a person are not: they come from `visible`. */
export function element(tag, properties = {}, ...children) {
	const node = document.createElement(tag);
	const { data = {}, aria = {}, ...rest } = properties;
	for (const name of LABELS) if (rest[name]) rest[name] = phrase(rest[name]);
	Object.assign(node, rest);
	Object.assign(node.dataset, data);
	for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, phrase(value));
	node.append(...children.filter((child) => child !== null).map(phrase));
	return node;
}

/** Builds a button; with a key, the key is shown on it. */
export function button(label, onClick, { key = "", ...properties } = {}) {
	const badge = key ? element("kbd", {}, key) : null;
	const node = element("button", { type: "button", ...properties }, element("span", {}, label), badge);
	node.addEventListener("click", onClick);
	return node;
}

const HIDDEN = new RegExp(
	"[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f" +
		"\\u202a-\\u202e\\u2060\\u2066-\\u2069\\ufeff\\u{e0000}-\\u{e007f}]", "gu",
);

/** Makes a text of a model, a person or the run fit to be shown: control characters and characters that turn
 * the direction of writing become symbols, and a text that happens to be one of the page's is not translated. */
export function visible(text) {
	const shown = String(text ?? "").replace(/\r\n/g, "\n").replace(HIDDEN, (character) =>
		`⟦U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
	return isPhrase(shown) ? isolate(shown) : shown;
}

/** Drops what `visible` would show as symbols: a text to go on writing from. */
export const plain = (text) => String(text ?? "").replace(/\r\n/g, "\n").replace(HIDDEN, "");

/** Says a sentence to screen readers, and shows it for a moment. */
export function say(words, { quiet = false } = {}) {
	const sentence = phrase(words);
	find("spoken").textContent = sentence;
	if (quiet) return;
	const toast = find("toast");
	toast.textContent = sentence;
	toast.classList.add("shown");
	clearTimeout(say.timer);
	say.timer = setTimeout(() => toast.classList.remove("shown"), 1800 + 40 * sentence.length);
}

/** Makes a random id; crypto.randomUUID needs a secure context. */
export function randomId() {
	const bytes = crypto.getRandomValues(new Uint8Array(16));
	return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Writes seconds as words. */
export function duration(seconds) {
	if (seconds < 90) return phrase`${Math.max(1, Math.round(seconds))} s`;
	const minutes = Math.round(seconds / 60);
	return minutes < 100 ? phrase`${minutes} min` : phrase`${decimal(minutes / 60, 1)} h`;
}
