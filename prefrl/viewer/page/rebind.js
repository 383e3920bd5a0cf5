// A person's own keys for the answers, chosen in the help and kept in this browser.

import { button, element } from "./dom.js";
import { answers } from "./keys.js";
import { phrase } from "./language.js";

const WORDS = { left: "Left better", right: "Right better", equal: "About equal", skip: "Can't tell", undo: "Undo" };
const MODIFIERS = ["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock"];

/** Builds the part of a dialog in which keys are changed; `onChange` hears of every change. */
export function ownKeys(dialog, onChange) {
	let asked = null; // the answer whose new key is the next one pressed
	const words = element("p", { className: "aside" });
	words.setAttribute("role", "status");
	const buttons = Object.entries(WORDS).map(([name, label]) =>
		button(label, () => ask(name), { key: answers.symbol(name), className: "small", data: { rebind: name } }));
	const reset = button("Keys as at first", () => {
		answers.reset();
		ask(null, "All keys are as at first.");
		onChange();
	}, { className: "small" });

	const ask = (name, sentence = phrase`Press the new key for “${phrase(WORDS[name])}”, or Escape.`) => {
		asked = name;
		words.textContent = phrase(sentence);
		for (const node of buttons) {
			node.setAttribute("aria-pressed", node.dataset.rebind === name);
			node.querySelector("kbd").textContent = answers.symbol(node.dataset.rebind);
			if (node.dataset.rebind === name) node.focus();
		}
	};

	const hear = (event) => {
		const { key } = event;
		if (key === "Escape") return ask(null, "Nothing was changed.");
		if (MODIFIERS.includes(key)) return null;
		if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return ask(asked, "Press one key alone.");
		const refusal = answers.change(asked, key);
		if (refusal) return ask(asked, refusal);
		ask(null, phrase`“${phrase(WORDS[asked])}” now has the key ${answers.symbol(asked)}.`);
		return onChange();
	};

	dialog.onkeydown = (event) => {
		if (!asked) return;
		event.preventDefault();
		if (!event.repeat) hear(event);
	};
	dialog.onclose = () => (asked = null);
	ask(null, "Another key for an answer: choose it here, then press the key. This browser remembers it.");
	return element("section", { className: "own-keys" }, words, element("div", { className: "row" }, ...buttons, reset));
}
