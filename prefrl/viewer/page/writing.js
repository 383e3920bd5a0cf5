// Boxes for writing: a better text instead of one that is shown, or a demonstration of one's own.
// A box stays open until what was written is stored, or kept to be sent; a refusal is said in it.

import { lastReply, promptOf } from "./conversation.js";
import { button, element, find, plain, say } from "./dom.js";
import { decimal, phrase } from "./language.js";

/** Opens the boxes and puts what was written into the outbox. */
export class Writing {
	constructor(session) {
		Object.assign(this, { session, dialog: find("writing"), sent: "", drafts: new Map() });
		this.words = element("p", { className: "refusal" });
		this.words.setAttribute("role", "alert");
	}

	/** Opens a box, the caret in its last text; `send` puts the texts into the outbox and returns their uuid, or
	 * "", or true if they go along with an answer that is still to come. */
	#open(title, parts, send, stored) {
		const { dialog, words } = this;
		const store = button("Store", () => press(), { key: "Ctrl ⏎", className: "primary" });
		const press = async () => {
			if (this.sent) return;
			const areas = [...dialog.querySelectorAll("textarea")].filter((area) => area.offsetParent);
			words.textContent = this.#problem(areas.map((area) => area.value));
			if (words.textContent) return;
			const sent = send();
			if (sent === true) return dialog.close();
			this.sent = sent;
			words.textContent = phrase(this.sent ? "Storing …" : "Not just now; try again in a moment.");
			if (!this.sent) return;
			store.disabled = true;
			await this.session.outbox.flush();
			store.disabled = false;
			if (!this.sent) return; // it was refused meanwhile, see below
			this.sent = "";
			dialog.close();
			stored();
		};
		words.textContent = "";
		dialog.replaceChildren(element("h2", { id: "writing-title" }, title), ...parts, words,
			element("div", { className: "row" }, store, button("Cancel", () => dialog.close())));
		dialog.onkeydown = (event) => {
			if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) press();
		};
		dialog.showModal();
		const area = [...dialog.querySelectorAll("textarea")].at(-1);
		area.focus();
		area.setSelectionRange(area.value.length, area.value.length);
	}

	#problem(texts) {
		const { longest_text: most } = this.session.run;
		const longest = Math.max(...texts.map((text) => [...text].length));
		if (longest > most) {
			return phrase`That is too long: it has ${decimal(longest)} characters, and at most ${decimal(most)} can be stored.`;
		}
		return texts.every((text) => text.trim()) ? "" : phrase("Write something first.");
	}

	/** Takes back a text that the server has refused for good, and says why; nothing of it is lost. */
	refused({ path, body }, why) {
		const here = this.sent === body.uuid;
		if (here) {
			this.sent = "";
			this.session.busy = false;
		}
		if (here && this.dialog.open) {
			this.words.textContent = phrase`Not stored: ${why}`;
			return;
		}
		const other = document.querySelector("dialog[open]");
		if (other) other.addEventListener("close", () => this.#again(path, body, why), { once: true });
		else this.#again(path, body, why);
	}

	/** Opens a box with a text that was refused when its own box was closed already. */
	#again(path, body, why) {
		const texts = body.value ? { text: body.value.text } : { prompt: body.prompt, response: body.response };
		const labels = { text: "The text", prompt: "Prompt", response: "Response" };
		const areas = Object.entries(texts).filter(([, text]) => typeof text === "string").map(([name, text]) =>
			[name, element("textarea", { rows: 9, dir: "auto", value: text, aria: { label: labels[name] } })]);
		this.#open("This text was not stored", areas.map(([, area]) => area), () => {
			const written = Object.fromEntries(areas.map(([name, area]) => [name, area.value]));
			const changed = body.value ? { value: { ...body.value, ...written } } : written;
			return this.session.outbox.add(path, { ...body, ...changed });
		}, () => say("Stored."));
		this.words.textContent = why;
	}

	/** Opens a box to write a better text for one of those on screen; returns whether there are any. */
	rewrite(entry) {
		if (!entry || entry.clips[0].form !== "text") return false;
		const { session, drafts } = this;
		const { judge } = session;
		const joins = judge.takesText; // it goes along with the order
		const names = entry.clips.length === 2 ? ["the left one", "the right one"] : entry.clips.map((_, i) => phrase`number ${i + 1}`);
		const select = element("select", { aria: { label: "Which text" } },
			...names.map((name, i) => element("option", { value: `${i}` }, name)));
		const area = element("textarea", { rows: 12, dir: "auto", aria: { label: "A better text" } });
		const draft = () => `${entry.query.ticket} ${select.value}`; // what was begun is there again
		const fill = () => (area.value = drafts.get(draft()) ?? plain(lastReply(entry.clips[Number(select.value)])));
		select.addEventListener("change", fill);
		area.addEventListener("input", () => drafts.set(draft(), area.value));
		fill();
		let given = null;
		this.#open("Write a better one", [
			element("label", {}, "Instead of", " ", select),
			element("p", {}, joins ? "Yours will count as better; it is stored with your order."
				: "Yours will count as better; this answers the question."), area,
		], () => {
			if (joins) return judge.take({ segment: Number(select.value), text: area.value });
			given = session.give("rewrite", { segment: Number(select.value), text: area.value });
			return given?.meant.answer ?? "";
		}, () => {
			drafts.delete(draft());
			session.goOn(given);
		});
		return true;
	}

	/** Opens a box for a response to a prompt, or for a prompt. */
	demonstrate() {
		const shown = plain(promptOf(this.session.entry?.clips[0]));
		const [prompt, response] = [4, 9].map((rows) => element("textarea", { rows, dir: "auto" }));
		const rows = [element("label", {}, "Prompt", prompt), element("label", {}, "Response", response)];
		const kind = element("select", { aria: { label: "What to demonstrate" } },
			...[["given", "a response to this prompt"], ["both", "a prompt and a response"], ["prompt", "a prompt alone"]]
				.map(([value, words]) => element("option", { value }, words)));
		let own = "";
		const change = () => {
			if (!prompt.readOnly) own = prompt.value;
			prompt.readOnly = kind.value === "given";
			prompt.value = kind.value === "given" ? shown : own;
			rows[1].hidden = kind.value === "prompt";
		};
		kind.addEventListener("change", change);
		change();
		const { session } = this;
		this.#open("A demonstration", [element("label", {}, "Write", " ", kind), ...rows],
			() => session.outbox.add("api/demonstration", { ...session.identity(), prompt: prompt.value,
				response: kind.value === "prompt" ? null : response.value }),
			() => say("Demonstration stored."));
	}
}
