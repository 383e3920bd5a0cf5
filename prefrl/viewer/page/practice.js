// Three pairs for practice. Their answers stay in this page and are never sent.

import { get } from "./api.js";
import { loadQuery } from "./clips.js";
import { button, say } from "./dom.js";
import { phrase } from "./language.js";

/** Shows the practice pairs one after the other. */
export class Practice {
	constructor(session) {
		this.session = session;
		session.onPractised = () => this.#next();
	}

	async start() {
		if (this.session.mode !== "labelling") return;
		try {
			const { queries } = await get("api/practice");
			this.entries = await Promise.all(queries.slice(0, 3).map(loadQuery));
		} catch {
			this.entries = [];
		}
		this.count = this.entries.length;
		if (this.count) this.#next();
		else say("There are no clips for practice yet.");
	}

	#next() {
		const entry = this.entries.shift();
		if (!entry) {
			this.stop();
			return say("That was practice. From here on it counts.");
		}
		this.session.enter("practice", entry);
		return this.session.note(phrase`Practice ${this.count - this.entries.length} of ${this.count}: nothing is stored.`,
			button("Leave practice", () => this.stop(), { className: "small" }));
	}

	/** Goes back to labelling; returns whether there was practice to leave. */
	stop() {
		if (this.session.mode !== "practice") return false;
		this.session.leave();
		return true;
	}
}
