// Boxes for writing: a better text instead of one that is shown, or a demonstration of one's own.

import { button, element, find, plain, say } from "./dom.js";
import { lastReply } from "./text.js";

/** Opens the boxes and puts what was written into the outbox. */
export class Writing {
	constructor(session) {
		Object.assign(this, { session, dialog: find("writing") });
	}

	#open(title, parts, send) {
		const { dialog } = this;
		const store = button("Store", send, { key: "Ctrl ⏎", className: "primary" });
		dialog.replaceChildren(element("h2", { id: "writing-title" }, title), ...parts,
			element("div", { className: "row" }, store, button("Cancel", () => dialog.close())));
		dialog.onkeydown = (event) => {
			if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
		};
		dialog.showModal();
	}

	/** Opens a box to write a better text for one of those on screen. */
	rewrite(entry) {
		if (!entry || entry.clips[0].form !== "text") return false;
		const names = entry.clips.length === 2 ? ["left", "right"] : entry.clips.map((_, i) => `${i + 1}`);
		const select = element("select", { aria: { label: "Which text" } },
			...names.map((name, i) => element("option", { value: `${i}` }, `the ${name} one`)));
		const area = element("textarea", { rows: 12, dir: "auto", aria: { label: "A better text" } });
		const fill = () => (area.value = plain(lastReply(entry.clips[Number(select.value)])));
		select.addEventListener("change", fill);
		fill();
		this.#open("Write a better one", [
			element("p", {}, "Yours will count as better than ", select, "; this answers the question."), area,
		], () => {
			if (!area.value.trim()) return say("Write something first.");
			this.dialog.close();
			this.session.answer("rewrite", { segment: Number(select.value), text: area.value });
		});
		return true;
	}

	demonstrate() {
		const shown = plain(this.session.entry?.clips[0]?.prompt);
		const [prompt, response] = [4, 9].map((rows) => element("textarea", { rows, dir: "auto" }));
		const rows = [element("label", {}, "Prompt", prompt), element("label", {}, "Response", response)];
		const kind = element("select", { aria: { label: "What to demonstrate" } },
			...[["given", "a response to this prompt"], ["both", "a prompt and a response"], ["prompt", "a prompt alone"]]
				.map(([value, words]) => element("option", { value }, words)));
		const change = () => {
			prompt.readOnly = kind.value === "given";
			prompt.value = kind.value === "given" ? shown : "";
			rows[1].hidden = kind.value === "prompt";
		};
		kind.addEventListener("change", change);
		change();
		this.#open("A demonstration", [element("p", {}, "Write ", kind, "."), ...rows], () => {
			const alone = kind.value === "prompt";
			if (!prompt.value.trim() || !(alone || response.value.trim())) return say("Write something first.");
			this.session.outbox.add("api/demonstration", { ...this.session.identity(), prompt: prompt.value,
				response: alone ? null : response.value });
			this.dialog.close();
			return say("Demonstration stored.");
		});
	}
}
