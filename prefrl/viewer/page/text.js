// Shows texts: one candidate from where it differs, word differences, lengths on request.

import { conversation } from "./conversation.js";
import { element, visible } from "./dom.js";
import { phrase } from "./language.js";

const LARGEST_TABLE = 2e7; // cells of the table that finds the common words

/** Shows one text; it has a single frame, so drawing it again changes nothing. */
export class TextDrawer {
	constructor(clip, canvas, camera, page) {
		Object.assign(this, { clip, page, frames: 1 });
	}

	draw() {}

	/** Writes the messages from `start` on; `parts` is the last reply in pieces [text, isDifferent], or null. */
	show(start, parts, { lengths = false, raw = false } = {}) {
		const own = this.clip.messages.slice(start);
		const nodes = conversation(own, { raw, marked: parts && marked(parts) });
		if (lengths) nodes.unshift(element("p", { className: "length" }, lengthOf(own)));
		this.page.replaceChildren(...nodes);
	}
}

const marked = (parts) => parts.map(([text, different]) =>
	different ? element("mark", {}, visible(text)) : visible(text));

function lengthOf(messages) {
	const text = messages.filter(({ role }) => role === "assistant").map((message) => message.text).join(" ");
	const words = text.split(/\s+/).filter(Boolean).length;
	return phrase`${words} words, ${text.length} characters`;
}

/** Marks in both texts the words that the other lacks. */
export function differences(left, right) {
	const units = [left, right].map((text) => text.match(/\s+|[^\s]+/gu) ?? []);
	let [start, end] = [0, 0];
	const [a, b] = units;
	const room = Math.min(a.length, b.length);
	while (start < room && a[start] === b[start]) start += 1;
	while (end < room - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
	const middle = units.map((words) => words.slice(start, words.length - end));
	const fits = middle[0].length * middle[1].length <= LARGEST_TABLE;
	const same = fits ? common(...middle) : [[], []];
	return units.map((words, side) => pieces(words.map((word, i) => {
		const inside = i >= start && i < words.length - end;
		return [word, inside && !same[side][i - start]];
	})));
}

function pieces(words) {
	const joined = [];
	for (const [word, different] of words) {
		const last = joined.at(-1);
		if (last && last[1] === different) last[0] += word;
		else joined.push([word, different]);
	}
	return joined;
}

/** Flags the words of both lists that belong to a longest common subsequence. */
function common(a, b) {
	const numbers = new Map();
	const number = (word) => numbers.get(word) ?? numbers.set(word, numbers.size).get(word);
	const [p, q] = [a.map(number), b.map(number)];
	const side = q.length + 1;
	const table = new Uint16Array((p.length + 1) * side);
	for (let i = p.length - 1; i >= 0; i -= 1) {
		for (let j = q.length - 1; j >= 0; j -= 1) {
			const at = i * side + j;
			table[at] = p[i] === q[j] ? table[at + side + 1] + 1 : Math.max(table[at + side], table[at + 1]);
		}
	}
	const flags = [new Uint8Array(p.length), new Uint8Array(q.length)];
	for (let i = 0, j = 0; i < p.length && j < q.length;) {
		if (p[i] === q[j]) [flags[0][i++], flags[1][j++]] = [1, 1];
		else if (table[(i + 1) * side + j] >= table[i * side + j + 1]) i += 1;
		else j += 1;
	}
	return flags;
}

/** Scrolls several panels together, each by its own part of the way. */
export function linkScrolling(panels, isLinked) {
	for (const panel of panels) {
		panel.addEventListener("scroll", () => {
			if (!isLinked() || !panel.matches(":hover, :focus")) return; // it follows, itself
			const part = panel.scrollTop / Math.max(1, panel.scrollHeight - panel.clientHeight);
			for (const other of panels) {
				if (other !== panel) other.scrollTop = part * (other.scrollHeight - other.clientHeight);
			}
		}, { passive: true });
	}
}
