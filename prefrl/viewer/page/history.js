// The last answers with small pictures; any of them can be looked at again and changed.

import { get } from "./api.js";
import { button, element, find, visible } from "./dom.js";
import { phrase } from "./language.js";
import { inWords } from "./pair.js";
import { aboutAnswer, AnswerCards } from "./cards.js";
import { answerOf, foreseen } from "./report.js";

const PAGE = 50;
const MOST = 200;
const CHOICES = {
	"": "every choice", left: "left better", right: "right better", tie: "about equal", skip: "can't tell",
	broken: "broken clips",
	ranking: phrase("rankings"), ratings: phrase("ratings"), rewrite: phrase("rewrites"), differs: "disagrees with the reward",
};
const option = ([value, words]) => element("option", { value }, words);

/** The list of answers, by whom and of which choice. */
export class History {
	constructor(session, views, report) {
		Object.assign(this, { session, report, cards: new AnswerCards(views), turn: 0 });
		const isLabeller = session.run.role === "labeller"; // then all are theirs, and the reward is not
		this.people = element("select", { hidden: isLabeller, aria: { label: "Whose answers" } });
		const choices = Object.entries(CHOICES).filter(([choice]) => choice !== "differs" || !isLabeller);
		this.choice = element("select", { aria: { label: "Which choice" } }, ...choices.map(option));
		this.title = element("h2", { tabIndex: -1 }, "History");
		this.words = element("p", { className: "aside" });
		this.more = button("Show more", () => this.#load());
		for (const select of [this.people, this.choice]) select.addEventListener("change", () => this.#fresh());
		report.addEventListener("change", () => report.watchers.has(this) && this.#differing());
		find("history").append(element("div", { className: "list-head" }, this.title, this.people, this.choice,
			button("Back to labelling", () => views.toggle("history"), { key: "H", className: "primary" })),
		this.words, this.cards.list, this.more);
		views.lists.history = this;
	}

	async enter() {
		const { session } = this;
		await session.outbox.flush();
		const { people = [] } = await get(`api/status?person=${encodeURIComponent(session.identity().person)}`)
			.catch(() => ({ people: [] }));
		const chosen = this.people.value;
		this.people.replaceChildren(...[["", phrase("everybody")],
			...people.map(({ person, labels }) => [person, phrase`${visible(person)} (${labels || phrase("imported")})`])].map(option));
		this.people.value = people.some(({ person }) => person === chosen) ? chosen : "";
		if (session.view === "history") this.#fresh();
	}

	leave() {
		this.report.unwatch(this);
	}

	#fresh() {
		this.cards.clear();
		Object.assign(this, { last: "", count: 0, turn: this.turn + 1 });
		this.leave();
		if (this.choice.value === "differs") {
			this.#differing();
			this.report.watch(this);
		} else this.#load();
	}

	/** Lists the answers whose other side the reward model prefers. */
	#differing() {
		const { value, words } = this.report;
		const all = (value?.disagreeing ?? [])
			.filter(({ teacher }) => [teacher, ""].includes(this.people.value));
		this.cards.fill(all.slice(0, MOST).map((entry) => {
			const answer = answerOf(entry);
			return [answer, inWords(answer.kind, answer.value), foreseen(entry), aboutAnswer(answer)];
		}));
		this.more.hidden = true;
		this.words.textContent = !value ? visible(words) : all.length ? "" : phrase("The reward model sides with every answer.");
	}

	async #load() {
		const { turn, cards } = this;
		const wanted = this.choice.value;
		const side = { left: 1, right: 0 }[wanted]; // both are preferences to the server
		const query = new URLSearchParams({ limit: PAGE, person: this.people.value,
			kind: side === undefined ? wanted : "preference", before: this.last });
		if (!this.last) query.delete("before");
		const { answers } = await get(`api/history?${query}`).catch(() => ({}));
		if (turn !== this.turn) return; // something else was chosen meanwhile
		if (!answers) {
			this.words.textContent = phrase("The server does not answer; the history comes when it is back.");
			return;
		}
		this.count += answers.length;
		this.last = answers.at(-1)?.answer ?? this.last;
		this.more.hidden = answers.length < PAGE || this.count >= MOST;
		for (const answer of answers) {
			if (side !== undefined && Math.round(answer.value.left) !== side) continue;
			const comment = answer.value.comment ? [`“${visible(answer.value.comment)}”`] : [];
			cards.add(answer, inWords(answer.kind, answer.value), ...(answer.gold ? ["gold question"] : []), ...comment,
				aboutAnswer(answer));
		}
		this.words.textContent = cards.list.children.length ? "" : phrase("No answers yet.");
	}
}
