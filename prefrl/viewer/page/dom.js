// Small helpers for building the page. Text goes in by textContent only, never as HTML.

/** Returns the element with this id. */
export const find = (id) => document.getElementById(id);

/** Builds an element; `data` and `aria` are objects, everything else is assigned as a property. */
export function element(tag, properties = {}, ...children) {
	const node = document.createElement(tag);
	const { data = {}, aria = {}, ...rest } = properties;
	Object.assign(node, rest);
	Object.assign(node.dataset, data);
	for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
	node.append(...children.filter((child) => child !== null));
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

/** Shows control characters and characters that turn the direction of writing as symbols. */
export function visible(text) {
	return String(text ?? "").replace(/\r\n/g, "\n").replace(HIDDEN, (character) =>
		`⟦U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
}

/** Drops what `visible` would show as symbols: a text to go on writing from. */
export const plain = (text) => String(text ?? "").replace(/\r\n/g, "\n").replace(HIDDEN, "");

/** Says a sentence to screen readers, and shows it for a moment. */
export function say(sentence, { quiet = false } = {}) {
	find("spoken").textContent = sentence;
	if (quiet) return;
	const toast = find("toast");
	toast.textContent = sentence;
	toast.classList.add("shown");
	clearTimeout(say.timer);
	say.timer = setTimeout(() => toast.classList.remove("shown"), 1800 + 40 * sentence.length);
}

/** Reads from localStorage; a browser that forbids it has nothing stored. */
export function remember(name, fallback = null) {
	try {
		const text = localStorage.getItem(`prefrl:${name}`);
		return text === null ? fallback : JSON.parse(text);
	} catch {
		return fallback;
	}
}

/** Lists in order the names in localStorage that begin like this. */
export function remembered(start) {
	try {
		const names = Object.keys(localStorage).map((name) => name.replace("prefrl:", ""));
		return names.filter((name) => name.startsWith(start)).sort();
	} catch {
		return [];
	}
}

/** Writes to localStorage; null removes. */
export function keep(name, value) {
	try {
		if (value === null) localStorage.removeItem(`prefrl:${name}`);
		else localStorage.setItem(`prefrl:${name}`, JSON.stringify(value));
	} catch {
		// full or forbidden: it lives for as long as the tab
	}
}

/** Makes a random id; crypto.randomUUID needs a secure context. */
export function randomId() {
	const bytes = crypto.getRandomValues(new Uint8Array(16));
	return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Writes seconds as words. */
export function duration(seconds) {
	if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
	const minutes = Math.round(seconds / 60);
	return minutes < 100 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
