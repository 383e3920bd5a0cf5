// Which view is on screen: labelling, or one of the lists; and going from a list to one of its answers.

import { button, find, say, visible } from "./dom.js";
import { phrase } from "./language.js";
import { inWords } from "./pair.js";
import { revisionInWords } from "./session.js";

/** Opens and closes views. A list is {title, opened, enter(), leave()}; its element has its name. */
export class Views {
	constructor(session) {
		Object.assign(this, { session, lists: {}, from: "", marks: () => [] }); // buttons beside an answer
		session.onReviewed = () => this.leaveReview();
	}

	/** Whether a list is on screen. */
	get open() {
		return this.session.view !== "labelling";
	}

	/** Opens a list; if it is open already, goes back to labelling. */
	toggle(name) {
		this.go(this.session.view === name ? "labelling" : name);
	}

	go(name) {
		const { session } = this;
		if (session.mode === "practice") {
			say("Leave practice first.");
			return;
		}
		const back = session.mode === "review" && this.from === name;
		if (session.mode === "review") session.leave();
		this.#show(name);
		if (this.open) {
			const list = this.lists[name];
			session.setState(name);
			(back && list.opened?.isConnected ? list.opened : list.title).focus();
			list.enter();
			return;
		}
		session.setState(session.entry ? "labelling" : "waiting");
		session.stage.redraw();
		session.wake();
	}

	#show(name) {
		this.lists[this.session.view]?.leave();
		this.session.view = name;
		for (const id of ["labelling", ...Object.keys(this.lists)]) find(id).hidden = id !== name;
		for (const id of Object.keys(this.lists)) find(`open-${id}`).setAttribute("aria-pressed", id === name);
	}

	/** Shows one answer's clips again, where a new answer can be given. */
	async review(answer, query) {
		const { session } = this;
		const entry = await session.queue.ready(query).catch(() => null);
		if (!this.open) return; // pressed twice, or gone back meanwhile
		if (!entry) {
			say("These clips cannot be shown any more.");
			return;
		}
		this.from = session.view;
		this.#show("labelling");
		session.enter("review", entry, answer);
		const own = answer.person === session.identity().person;
		const said = phrase`${visible(answer.person)} had said: ${inWords(answer.kind, answer.value)}.`;
		session.note(`${answer.kind === "rewrite" && revisionInWords(query) || said} `
			+ phrase(own || query.revision ? "A new answer replaces it." : "Yours will stand beside it."),
		...this.marks(answer),
		button("Back to the list", () => this.leaveReview(), { className: "small" }));
	}

	/** Goes back from one answer to its list; returns whether there was one. */
	leaveReview() {
		if (this.session.mode !== "review") return false;
		this.go(this.from);
		return true;
	}
}
