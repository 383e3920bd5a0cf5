// The first-run card, the instructions and the keys.

import { button, element, find, keep, visible } from "./dom.js";
import { HELP } from "./keys.js";

function task(run) {
	return [element("p", { className: "task", dir: "auto" }, visible(run.question)),
		element("p", { dir: "auto" }, visible(run.instructions))];
}

function open(dialog, ...nodes) {
	dialog.replaceChildren(...nodes);
	if (!dialog.open) dialog.showModal();
	dialog.scrollTop = 0;
}

function row(dialog, label, onPractice) {
	return element("div", { className: "row" },
		button(label, () => dialog.close(), { className: "primary", autofocus: true }),
		button("Three pairs for practice", () => {
			dialog.close();
			onPractice();
		}));
}

/** Opens the card that a person sees first. */
export function openWelcome(run, onPractice) {
	const dialog = find("welcome");
	dialog.addEventListener("close", () => keep("welcomed", true), { once: true });
	open(dialog,
		element("p", { className: "aside" }, visible(run.env || run.name)),
		element("h2", { id: "welcome-title" }, "You are the reward."),
		element("p", {}, "You will see two side by side. Say which is better; it is learned while you go on."),
		...task(run),
		element("ul", { className: "first-keys" },
			...[["←", "left better"], ["→", "right better"], ["↓", "about equal"], ["S", "can't tell"], ["U", "undo"]]
				.map(([key, words]) => element("li", {}, element("kbd", {}, key), ` ${words}`))),
		element("p", { className: "aside" }, "Trust your first impression. If both are bad, say which is less bad; "
			+ "“can't tell” teaches nothing."),
		row(dialog, "Start labelling", onPractice));
}

/** Opens the instructions and the keys. */
export function openHelp(run, onPractice) {
	const dialog = find("help");
	const rows = HELP.map(([keys, words]) =>
		element("div", {}, element("dt", {}, ...keys.split(" ").map((key) => element("kbd", {}, key))),
			element("dd", {}, words)));
	open(dialog,
		element("h2", { id: "help-title" }, "The question, and the keys"), ...task(run),
		element("dl", { className: "keys" }, ...rows),
		element("p", { className: "aside" }, "Drag a clip to turn all of them, with Shift to move, wheel or pinch to zoom. "
			+ "Tiles and dots on the floor show how far it came."),
		row(dialog, "Close", onPractice));
}
