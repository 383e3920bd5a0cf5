// Builds what the server found of Markdown, element by element. Texts go in as text, and tags are only
// those below, so nothing that a model writes becomes HTML.

import { element, visible } from "./dom.js";

const TAGS = new Set(["p", "br", "hr", "ul", "ol", "li", "pre", "code", "small", "strong", "em", "s", "blockquote",
	"table", "thead", "tbody", "tr", "th", "td"]);
const HEADING = /^h[1-6]$/;

/** Returns nodes for texts and elements, each [its tag, node, …]; a list's tag may hold its first number. */
export function build(nodes, outermost = true) {
	return nodes.flatMap((node) => {
		if (typeof node === "string") return visible(node);
		const [head, ...children] = node;
		const [tag, start] = head.split(" ");
		const inside = build(children, false);
		if (HEADING.test(tag)) return element("p", { className: `heading ${tag}`, dir: "auto" }, ...inside);
		if (!TAGS.has(tag)) return inside;
		const made = element(tag, outermost && tag !== "pre" ? { dir: "auto" } : {}, ...inside);
		if (start) made.start = Number(start);
		return tag === "table" ? element("div", { className: "wide" }, made) : made;
	});
}
