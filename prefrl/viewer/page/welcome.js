// The first-run card, the instructions and the keys.

import { button, element, find, keep, visible } from "./dom.js";
import { answers, help } from "./keys.js";
import { ownKeys } from "./rebind.js";

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
			...Object.entries({ left: "left better", right: "right better", equal: "about equal", skip: "can't tell",
				undo: "undo" }).map(([name, words]) => element("li", {}, element("kbd", {}, answers.symbol(name)), ` ${words}`))),
		element("p", { className: "aside" }, "Trust your first impression. If both are bad, say which is less bad; "
			+ "“can't tell” teaches nothing."),
		row(dialog, "Start labelling", onPractice));
}

/** Opens the instructions and the keys. */
export function openHelp(run, onPractice) {
	const dialog = find("help");
	const keys = element("dl", { className: "keys" });
	const write = () => keys.replaceChildren(...help().map(([names, words]) =>
		element("div", {}, element("dt", {}, ...names.split(" ").map((name) => element("kbd", {}, name))),
			element("dd", {}, words))));
	write();
	open(dialog,
		element("h2", { id: "help-title" }, "The question, and the keys"), ...task(run),
		keys, ownKeys(dialog, write),
		element("p", { className: "aside" }, "Drag a clip to turn all of them, with Shift to move, wheel or pinch to zoom. "
			+ "Tiles and dots on the floor show how far it came."),
		row(dialog, "Close", onPractice));
}
