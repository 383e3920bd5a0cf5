// From keys to actions. What a key does is listed once, for the page and for the help.

import { button, keep, remember } from "./dom.js";
import { phrase } from "./language.js";

const ACTIONS = {
	Backspace: "undo", " ": "play", ",": "back", ".": "on", "[": "slower", "]": "faster", f: "full", r: "reset",
	g: "ghost", "?": "keys", h: "history", i: "inspect", o: "admin", c: "comment", b: "broken", d: "difference", l: "link", m: "raw", e: "rewrite", "=": "together", Enter: "store",
	Escape: "close",
};

// What they are called where somebody wants a key that is taken.
const CALLED = {
	left: phrase("left"), right: phrase("right"), equal: phrase("equal"), skip: phrase("skip"), undo: phrase("undo"),
	play: phrase("play"), back: phrase("back"), on: phrase("on"), slower: phrase("slower"), faster: phrase("faster"),
	full: phrase("full screen"), reset: phrase("reset the camera"), ghost: phrase("ghost"), keys: phrase("keys"),
	history: phrase("history"), inspect: phrase("inspect"), difference: phrase("differences"),
	link: phrase("link scrolling"), raw: phrase("raw"), rewrite: phrase("write a better one"),
	together: phrase("together"), store: phrase("store"), close: phrase("close"),
};

const FIRST = { left: "ArrowLeft", right: "ArrowRight", equal: "ArrowDown", skip: "s", undo: "u" };
const SYMBOLS = { ArrowLeft: "←", ArrowRight: "→", ArrowDown: "↓", ArrowUp: "↑" };
const USABLE = /^(\P{Nd}|Arrow\w+|Home|End|Page\w+|Insert|Delete)$/u; // digits rank and rate

const plainKey = (key) => (key.length === 1 ? key.toLowerCase() : key);
const symbol = (key) => SYMBOLS[key] ?? (key.length === 1 ? key.toUpperCase() : key);

/** The keys of the answers, which a person may change; every change is followed by a "change". */
class Answers extends EventTarget {
	constructor() {
		super();
		this.#load();
		addEventListener("storage", () => this.#load()); // another page of this browser
	}

	#load() {
		const chosen = { ...FIRST, ...remember("keys") };
		const keys = Object.values(chosen);
		const sound = keys.every((key) => typeof key === "string" && USABLE.test(key) && !ACTIONS[key]);
		const distinct = keys.length === Object.keys(FIRST).length && new Set(keys).size === keys.length;
		this.keys = sound && distinct ? chosen : FIRST;
		this.dispatchEvent(new Event("change"));
	}

	/** Returns what a key says, if anything. */
	of(key) {
		return Object.keys(FIRST).find((name) => this.keys[name] === key);
	}

	/** Returns the key of an answer as it is written on its button. */
	symbol(name) {
		return symbol(this.keys[name]);
	}

	/** Gives an answer another key; returns why it cannot have that one, or nothing. */
	change(name, pressed) {
		const key = plainKey(pressed);
		const taken = this.of(key) ?? ACTIONS[key];
		if (!USABLE.test(key)) return phrase("That key is needed for something else; choose another one.");
		if (taken && this.keys[name] !== key) return phrase`${symbol(key)} already means “${CALLED[taken] ?? taken}”; choose another key.`;
		this.#set({ ...this.keys, [name]: key });
		return "";
	}

	reset() {
		this.#set(FIRST);
	}

	#set(keys) {
		this.keys = keys;
		keep("keys", keys === FIRST ? null : keys);
		this.dispatchEvent(new Event("change"));
	}
}

export const answers = new Answers();

/** Builds the button of an answer; its key is on it, whichever that is. */
export function answerButton(name, label, onClick, properties) {
	const node = button(label, onClick, { ...properties, key: answers.symbol(name) });
	answers.addEventListener("change", () => (node.querySelector("kbd").textContent = answers.symbol(name)));
	return node;
}

const MOVING = [["Space", "play or pause"], [", .", "one frame back or on"], ["[ ]", "slower or faster, 0.1 to 4 times"],
	["0", "from the start"], ["F", "full screen"], ["R", "reset the camera"],
	["G", "ghost: its start, the other clip, none"]];
const READING = [["M", "Markdown as it is meant, or raw"], ["D", "mark the words that differ"],
	["L", "scroll all together"], ["E", "write a better one"]];
const ALWAYS = [["C", "a comment on the answer"], ["B", "a clip is broken: set the question aside"], ["H", phrase("history")],
	["I", "inspect the learned reward"], ["O", "how people answer, for admins"], ["?", "these keys"]];
const OF_ADMINS = ["I", "O"];

/** Returns the keys for the help, [keys, what they do], of those that a kind of query and its clips know. */
export function help({ kind, clips, isText, role }) {
	const [left, right, equal, skip, undo] = Object.keys(FIRST).map((name) => answers.symbol(name));
	const digits = `1 … ${clips}`;
	const cannot = [skip, "can't tell: teaches nothing"];
	const judging = {
		preference: [[`${left} 1`, "left is better"], [`${right} 2`, "right is better"],
			[`Shift+${left} Shift+${right}`, "significantly better"], [equal, "about equal"], cannot],
		ranking: [[digits, "the next best"], ["=", "the next number shares the last place"],
			["Enter", "store the order"], [equal, "all about equal"], cannot],
		choice: [[digits, "the best"], [equal, "all about equal"], cannot],
		ratings: [["1 … 7", "rate the next one"], [`${left} ${right}`, "another one"], ["Enter", "store the ratings"], cannot],
	}[kind];
	return [...judging, [`${undo} ⌫ Ctrl+Z`, "undo, brings the last one back"],
		...(isText ? READING : MOVING), ...ALWAYS.filter(([key]) => !OF_ADMINS.includes(key) || role !== "labeller")];
}

const REPEATING = ["back", "on"]; // holding these moves on frame by frame; all others act once

/** Says what an event asks for, or null: {name, digit, strong}. */
export function actionOf(event) {
	const { key, repeat, target } = event;
	if (target.closest?.("input, textarea, select") || event.isComposing || event.defaultPrevented) return null;
	const alternate = event.getModifierState?.("AltGraph"); // some keyboards write [ and ] with it
	if ((event.ctrlKey || event.metaKey || event.altKey) && !alternate) {
		const undo = event.ctrlKey && !event.altKey && !event.shiftKey && key.toLowerCase() === "z";
		return undo && !repeat ? { name: "undo" } : null;
	}
	const digit = /^Digit\d$/.test(event.code) && event.shiftKey ? event.code.slice(5) : key;
	if (/^\d$/.test(digit)) {
		return repeat ? null : { name: "digit", digit: Number(digit), strong: digit !== key };
	}
	const name = answers.of(plainKey(key)) ?? ACTIONS[plainKey(key)];
	if (!name || (repeat && !REPEATING.includes(name))) return null;
	const own = ["play", "store"].includes(name) && target.closest?.("button, summary");
	return own ? null : { name, strong: event.shiftKey }; // Space and Enter press a focused button
}

/** Lets no button be pressed by a key that is meant for something else. One pressed with a pointer would
 * keep the focus and hear the next Space, one pressed with Enter would hear every repeat. */
export function letGoOfButtons() {
	const pressed = (event) => event.target.closest?.("button, summary");
	document.addEventListener("mousedown", (event) => {
		if (!pressed(event) || event.target.closest("dialog")) return; // a dialog has no keys but its own
		event.preventDefault();
		document.activeElement?.blur();
	}, { capture: true });
	document.addEventListener("keydown", (event) => {
		if (event.repeat && event.key === "Enter" && pressed(event)) event.preventDefault();
	}, { capture: true });
}

/** Lights up a button for a moment. */
export function flash(node) {
	const style = getComputedStyle(document.documentElement);
	const [background, color] = ["--accent", "--on-accent"].map((name) => style.getPropertyValue(name));
	node.animate([{ background, color }, { background, color }, {}], { duration: 320, easing: "ease-out" });
}
