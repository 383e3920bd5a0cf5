// The first-run card, the instructions and the keys.

import { post } from "./api.js";
import { button, element, find, keep, visible } from "./dom.js";
import { guideNodes } from "./guide.js";
import { answers, help } from "./keys.js";
import { ownKeys } from "./rebind.js";

function task(run) {
	return [element("p", { className: "task", dir: "auto" }, visible(run.question)), ...guideNodes(run.guide)];
}

function open(dialog, ...nodes) {
	dialog.replaceChildren(...nodes);
	if (!dialog.open) dialog.showModal();
	dialog.scrollTop = 0;
}

const NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/** Says what is asked, and with which keys it is answered, for each kind of query. */
function kindOf({ kind, clips, forms }) {
	const things = forms.includes("text") ? "texts" : "clips";
	const many = `${NUMBERS[clips] ?? clips} ${things}`;
	const key = (name) => answers.symbol(name);
	const [skip, undo] = [[key("skip"), "can't tell"], [key("undo"), "undo"]];
	const equal = [key("equal"), "all about equal"];
	return {
		preference: [`You will see two ${things} side by side. Say which is better`, [[key("left"), "left better"],
			[key("right"), "right better"], [key("equal"), "about equal"], skip, undo]],
		ranking: [`You will see ${many} at once. Put them in order, the best first`, [[`1 … ${clips}`, "the next best"],
			["=", "the next is equal to the last"], ["⏎", "store the order"], equal, skip, undo]],
		choice: [`You will see ${many} at once. Say which is the best`, [[`1 … ${clips}`, "the best"], equal, skip, undo]],
		ratings: [`You will see ${many} at once. Give each a number, the higher the better`,
			[["1 … 7", "rate the next one"], ["⏎", "store the ratings"], skip, undo]],
	}[kind];
}

function row(dialog, label, onPractice) {
	return element("div", { className: "row" },
		button(label, () => dialog.close(), { className: "primary", autofocus: true }),
		button("Three for practice", () => {
			dialog.close();
			onPractice();
		}));
}

const NOBODY = "anonymous";

/** Whether a person has seen the first card of a run, in whichever browser. */
export function hasWelcomed({ welcomed = [] }, { person }) {
	return person !== NOBODY && welcomed.includes(person);
}

/** Opens the card that a person sees first, once for each run. */
export function openWelcome(run, identity, onPractice) {
	const dialog = find("welcome");
	const [asked, keys] = kindOf(run);
	dialog.addEventListener("close", () => {
		keep(`${run.id}:welcomed`, true);
		if (identity().person !== NOBODY) post("api/welcomed", identity()).catch(() => null); // this browser knows
	}, { once: true });
	open(dialog,
		element("p", { className: "aside" }, visible(run.env || run.name || run.person)),
		element("h2", { id: "welcome-title" }, "You are the reward."),
		element("p", {}, `${asked}; it is learned while you go on.`),
		...task(run),
		element("ul", { className: "first-keys" },
			...keys.map(([symbol, words]) => element("li", {}, element("kbd", {}, symbol), ` ${words}`))),
		element("p", { className: "aside" }, `Trust your first impression. If ${run.clips > 2
			? "all are bad, say which is least bad" : "both are bad, say which is less bad"}; “can't tell” teaches nothing.`),
		row(dialog, "Start labelling", onPractice));
}

/** Opens the instructions and the keys; `run` says what is on screen: its `kind`, how many `clips`, their `forms`. */
export function openHelp(run, onPractice) {
	const dialog = find("help");
	const keys = element("dl", { className: "keys" });
	const isText = run.forms.includes("text");
	const write = () => keys.replaceChildren(...help({ ...run, isText }).map(([names, words]) =>
		element("div", {}, element("dt", {}, ...names.split(" ").map((name) => element("kbd", {}, name))),
			element("dd", {}, words))));
	write();
	open(dialog,
		element("h2", { id: "help-title" }, "The question, and the keys"), ...task(run),
		keys, ownKeys(dialog, write),
		isText ? "" : element("p", { className: "aside" }, "Drag a clip to turn all of them, with Shift to move, wheel or "
			+ "pinch to zoom. Tiles and dots on the floor show how far it came."),
		row(dialog, "Close", onPractice));
}
