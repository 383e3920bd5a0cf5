// What a person adds to an answer: a comment in words, or that a clip is broken and cannot be judged.

import { button, element, find, plain, say } from "./dom.js";
import { phrase } from "./language.js";

const LONGEST = 500; // characters of a comment

/** The small field for a comment, and the box for what is broken. */
export class Remarks {
	constructor(session) {
		this.session = session;
		this.field = element("input", { id: "comment", maxLength: LONGEST, autocomplete: "off", dir: "auto",
			placeholder: "A comment, stored with your answer", aria: { label: "Comment on this pair" } });
		this.row = element("p", { className: "remark", hidden: true }, this.field);
		find("judge").before(this.row);
		this.field.addEventListener("keydown", (event) => {
			if (!["Enter", "Escape"].includes(event.key) || event.isComposing) return;
			event.preventDefault();
			if (event.key === "Escape") this.#clear();
			this.field.blur(); // the keys of the answers work again
		});
		this.dialog = element("dialog", { id: "broken", aria: { labelledby: "broken-title" } });
		document.body.append(this.dialog);
		session.remark = (value) => this.#withComment(value);
		session.onRemark = (was) => this.#open(was);
	}

	/** Buttons for the row under the clips. */
	buttons() {
		const small = (label, act, key) => button(label, act, { key, className: "small" });
		return [small("Comment", () => this.act("comment"), "C"), small("Broken clip", () => this.act("broken"), "B")];
	}

	/** Does what a key asks for; returns whether it was for this. */
	act(name) {
		if (!this.session.entry || !["comment", "broken"].includes(name)) return false;
		if (name === "broken") this.#ask();
		else {
			this.row.hidden = false;
			this.field.focus();
		}
		return true;
	}

	/** Gets ready for a query; `was` is the answer that it had. */
	#open(was) {
		this.field.value = plain(was?.value.comment);
		this.row.hidden = !this.field.value;
	}

	#clear() {
		this.field.value = "";
		this.row.hidden = true;
	}

	#withComment(value) {
		const comment = this.field.value.trim();
		return comment ? { ...value, comment } : value;
	}

	/** Asks which clip is broken, and how. */
	#ask() {
		const { entry } = this.session;
		const names = this.#names(entry.query.clips.length);
		const choices = names.map((name, segment) => {
			const choice = element("input", { type: "radio", name: "broken-clip", value: String(segment) });
			return element("label", {}, choice, name);
		});
		const words = element("input", { maxLength: LONGEST, autocomplete: "off", dir: "auto", value: this.field.value,
			placeholder: "What is wrong with it?", aria: { label: "What is wrong with it?" } });
		const form = element("form", { method: "dialog" },
			element("h2", { id: "broken-title" }, "Which clip is broken?"),
			element("p", { className: "aside" }, "The question is set aside: nobody is asked it any more, and nothing is learned from it."),
			element("div", { className: "choices" }, ...choices), words,
			element("div", { className: "row" },
				element("button", { className: "primary", value: "store" }, "Set it aside"),
				element("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel")));
		form.addEventListener("submit", () => {
			const chosen = form.querySelector("input:checked");
			const comment = words.value.trim();
			this.#clear();
			const value = { ...(chosen ? { segment: Number(chosen.value) } : {}), ...(comment ? { comment } : {}) };
			if (this.session.entry !== entry) say("That pair is no longer in front of you; nothing was set aside.");
			else this.session.answer("broken", value);
		});
		this.dialog.replaceChildren(form);
		this.dialog.showModal();
		words.focus();
	}

	#names(count) {
		return count === 2 ? ["The left one", "The right one"] : Array.from({ length: count }, (_, i) => phrase`Clip ${i + 1}`);
	}
}
