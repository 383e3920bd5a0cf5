// Questions for practice, with right answers where they are known. Their answers stay in this page and are never sent.

import { get } from "./api.js";
import { loadQuery } from "./clips.js";
import { button, find, say, visible } from "./dom.js";
import { phrase } from "./language.js";
import { inWords } from "./pair.js";
import { verdict } from "./verdict.js";

/** Shows the practice questions one after the other, and says of each answer whether it is right, and why. */
export class Practice {
	constructor(session) {
		this.session = session;
		session.onPractised = (given) => this.#answered(given);
	}

	async start() {
		if (this.session.mode !== "labelling") return;
		try {
			const { queries } = await get("api/practice");
			this.entries = await Promise.all(queries.map(loadQuery));
		} catch {
			this.entries = [];
		}
		this.count = this.entries.length;
		if (this.count) this.#next();
		else say("There are no clips for practice yet.");
	}

	#answered({ entry: { query }, was }) {
		if (!query.right) {
			say(phrase`${inWords(was.kind, was.value)}. Nothing was stored.`);
			return this.#next();
		}
		const words = visible(verdict(query, was, query.right));
		const go = button(this.entries.length ? "Next" : "Start labelling", () => this.#next(), { key: "⏎", className: "small" });
		this.session.busy = true; // until one goes on
		this.session.note(words, go, this.#leaving());
		find("note").classList.add("verdict");
		document.body.dataset.verdict = words;
		query.right.order.forEach((place, index) => place.forEach((clip) => {
			find("stage").children[clip].dataset.place = phrase`place ${index + 1}`;
		}));
		say(words, { quiet: true });
		return go.focus();
	}

	#leaving() {
		return button("Leave practice", () => this.stop(), { className: "small" });
	}

	#next() {
		this.#forget();
		const entry = this.entries.shift();
		if (!entry) {
			this.stop();
			return say("That was practice. From here on it counts.");
		}
		this.session.enter("practice", entry);
		return this.session.note(phrase`Practice ${this.count - this.entries.length} of ${this.count}: nothing is stored.`,
			this.#leaving());
	}

	#forget() {
		find("note").classList.remove("verdict");
		delete document.body.dataset.verdict;
	}

	/** Goes back to labelling; returns whether there was practice to leave. */
	stop() {
		if (this.session.mode !== "practice") return false;
		this.#forget();
		this.session.leave();
		return true;
	}
}
