// From keys to actions. What a key does is listed once, for the page and for the help.

const ACTIONS = {
	ArrowLeft: "left", ArrowRight: "right", ArrowDown: "equal", s: "skip", u: "undo", Backspace: "undo",
	" ": "play", ",": "back", ".": "on", "[": "slower", "]": "faster", f: "full", r: "reset", g: "ghost",
	"?": "keys", h: "history", i: "inspect", d: "difference", l: "link", e: "rewrite", "=": "together", Enter: "store",
	Escape: "close",
};

/** The keys for the help: [keys, what they do]. */
export const HELP = [
	["← 1", "left is better"], ["→ 2", "right is better"], ["Shift+← Shift+→", "significantly better"],
	["↓", "about equal"], ["S", "can't tell: teaches nothing"], ["U ⌫ Ctrl+Z", "undo, brings the last one back"],
	["1 … 9", "next in a ranking; the best; a rating"], ["=", "the next number shares the last place"],
	["Enter", "store the ranking or the ratings"], ["Space", "play or pause"], [", .", "one frame back or on"],
	["[ ]", "slower or faster, 0.1 to 4 times"], ["0", "from the start"], ["F", "full screen"],
	["R", "reset the camera"], ["G", "ghost: its start, the other clip, none"],
	["D", "texts: mark the words that differ"], ["L", "texts: scroll both together"],
	["E", "texts: write a better one"], ["H", "history"], ["I", "inspect the learned reward"], ["?", "these keys"],
];

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
	const name = ACTIONS[key.length === 1 ? key.toLowerCase() : key];
	if (!name || (repeat && !REPEATING.includes(name))) return null;
	const own = ["play", "store"].includes(name) && target.closest?.("button, summary");
	return own ? null : { name, strong: event.shiftKey }; // Space and Enter press a focused button
}

/** Lights up a button for a moment. */
export function flash(node) {
	const style = getComputedStyle(document.documentElement);
	const [background, color] = ["--accent", "--on-accent"].map((name) => style.getPropertyValue(name));
	node.animate([{ background, color }, { background, color }, {}], { duration: 320, easing: "ease-out" });
}
