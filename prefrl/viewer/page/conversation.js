// A conversation: what all candidates begin with, who says what, as Markdown or raw, how a reply ends.

import { element, visible } from "./dom.js";
import { build } from "./markdown.js";

const NAMES = { system: "System", user: "User", assistant: "Assistant" };

/** Returns the last reply of a clip. */
export const lastReply = (clip) => clip.messages.at(-1).text;

/** Returns what was said first. */
export const promptOf = (clip) => clip?.messages?.find(({ role }) => role === "user")?.text ?? "";

/** Returns how many messages all clips begin with; the last one of each is its own. */
export function commonMessages([first, ...others]) {
	const most = Math.min(...[first, ...others].map(({ messages }) => messages.length - 1));
	const differs = ({ messages }) => messages.findIndex(({ role, text, cut }, i) => {
		const { role: otherRole, text: otherText, cut: otherCut } = first.messages[i] ?? {};
		return role !== otherRole || text !== otherText || cut !== otherCut;
	});
	const ends = others.map(differs).filter((index) => index >= 0);
	return Math.min(most, ...ends);
}

/** Says in a word what a person could not see. */
function remark({ text }) {
	if (!text) return "(empty)";
	return text.trim() ? "" : "(white space alone)";
}

/** Shows messages; `marked` replaces the text of the last one. */
export function conversation(messages, { raw = false, named = messages.length > 1, marked = null } = {}) {
	return messages.map((message, index) => {
		const { role, text, blocks, cut } = message;
		const own = marked && index === messages.length - 1;
		const nothing = own ? "" : remark(message);
		const plain = () => [element("p", { dir: "auto" }, ...(own ? marked : [visible(text)]))];
		const body = nothing ? [element("p", { className: "remark" }, nothing)]
			: raw || own || !blocks ? plain() : build(blocks);
		return element("div", { className: `message ${role}${raw ? " raw" : ""}` },
			named ? element("p", { className: "who" }, NAMES[role]) : null,
			element("div", { className: "body" }, ...body),
			cut ? element("p", { className: "remark" }, "cut off at the limit") : null);
	});
}
