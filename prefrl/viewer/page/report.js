// What the learned reward says of the answers. The server works it out, so it is asked only for views
// that are open.

import { get, Refusal } from "./api.js";
import { heard, phrase } from "./language.js";

const OFTEN = 1000; // milliseconds between two questions while a report is being worked out
const SELDOM = 30000; // and while it stands: a new round, or somebody's new answers, make another

/** The newest report; every answer of the server is followed by a "change". */
export class Report extends EventTarget {
	constructor() {
		super();
		Object.assign(this, { value: null, words: phrase("Asking the reward model …"), working: true });
		Object.assign(this, { watchers: new Set(), asking: false, timer: 0 });
		document.addEventListener("visibilitychange", () => this.#ask());
	}

	/** Keeps the report fresh for as long as a view watches. */
	watch(view) {
		this.watchers.add(view);
		this.#ask();
	}

	unwatch(view) {
		this.watchers.delete(view);
	}

	async #ask() {
		clearTimeout(this.timer);
		if (this.asking || document.hidden || !this.watchers.size) return;
		this.asking = true;
		try {
			const { ready, report, words = "", working = false } = await get("api/inspect");
			Object.assign(this, { value: ready ? report : null, words: heard(words), working });
		} catch (error) {
			this.words = error instanceof Refusal ? error.message
				: phrase("The server does not answer; the report comes when it is back.");
			this.working = true;
		} finally {
			this.asking = false;
		}
		this.timer = setTimeout(() => this.#ask(), this.value && !this.working ? SELDOM : OFTEN);
		this.dispatchEvent(new Event("change"));
	}
}

/** Turns one answer of the report into what the history knows of an answer. */
export const answerOf = ({ round, index, teacher, kind, value, answered_at, seconds }) =>
	({ ticket: ticketOf({ round, index }), person: teacher, kind, value, answered_at, seconds });

/** Returns the ticket of a query; imported ones are of rounds below 0. */
export const ticketOf = ({ round, index }) => `${round}-${index}`;

/** Writes a probability; what is nearly sure is not called sure. */
function chance(probability) {
	if (probability < 0.005) return phrase("under 1 %");
	return probability > 0.995 ? phrase("over 99 %") : `${Math.round(100 * probability)} %`;
}

/** Says what the reward model makes of an answered query. */
export function foreseen({ kind, predicted, agreed, decisive, members }) {
	const said = kind === "rewrite" ? phrase`the reward model gives the new text ${chance(predicted[0])}`
		: predicted.length === 1 ? phrase`the reward model gives left ${chance(predicted[0])}`
		: decisive ? phrase`the reward model sides with ${agreed} of its ${decisive} pairs`
		: phrase("the reward model tells them apart");
	return members ? said : phrase`${said}, having learned from it`;
}
