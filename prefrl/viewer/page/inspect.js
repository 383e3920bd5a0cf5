// Is the learned reward any good? Beside each teacher, the true return, and clip by clip.

import { AnswerCards } from "./cards.js";
import { button, element, find, visible } from "./dom.js";
import { decimal, phrase } from "./language.js";
import { inWords } from "./pair.js";
import { scatter } from "./plots.js";
import { answerOf, foreseen } from "./report.js";
import { RewardTraces } from "./rewards.js";
import { onTheme } from "./shade.js";

const section = (name, title, aside, ...content) => {
	const heading = element("h3", { id: `inspect-${name}` }, title);
	return element("section", { className: name, aria: { labelledby: heading.id } }, heading,
		aside ? element("p", { className: "aside" }, aside) : null, ...content);
};

/** The view of the report. */
export class Inspect {
	constructor(session, views, report, status) {
		Object.assign(this, { session, report, status, cards: new AnswerCards(views), traces: new RewardTraces(session.stage) });
		this.title = element("h2", { tabIndex: -1 }, "Inspect");
		this.words = element("p", { className: "aside", id: "inspect-words" });
		this.words.setAttribute("role", "status");
		this.sides = element("ul", { className: "sides" });
		this.plot = element("canvas", {});
		this.plot.setAttribute("role", "img");
		this.together = element("p", { className: "aside" });
		this.truth = section("truth", "Beside the true return", "", this.together, this.plot);
		this.worst = section("worst", "Where it fits worst",
			"The answers that surprise the reward most. Open one to see it again, and to change it.", this.cards.list);
		this.newest = section("newest", "What it pays for",
			"The newest answered clips, each at the step that earns most; they move while you look at them. The line "
			+ "is the predicted reward of each step, the dots an average step of the last round.", this.traces.list);
		this.body = element("div", { hidden: true }, element("div", { className: "panels" },
			section("teachers", "Beside the teachers",
			"How often it prefers the same side; at the mark it might as well guess.", this.sides), this.truth), this.worst, this.newest);
		find("inspect").append(element("div", { className: "list-head" }, this.title,
			button("Back to labelling", () => views.toggle("inspect"), { key: "I", className: "primary" })),
		this.words, this.body);
		report.addEventListener("change", () => session.view === "inspect" && this.#show());
		new ResizeObserver(() => this.#plot()).observe(this.plot);
		onTheme(() => this.#plot());
		views.lists.inspect = this;
	}

	/** The card that was opened last; it has the focus again when one comes back. */
	get opened() {
		return this.cards.opened;
	}

	async enter() {
		this.#show();
		await this.session.outbox.flush(); // a changed answer counts in the report
		if (this.session.view === "inspect") this.report.watch(this);
	}

	leave() {
		this.report.unwatch(this);
	}

	#show() {
		const { value, words, working } = this.report;
		this.body.hidden = !value;
		document.body.dataset.report = value ? (working ? "older" : "ready") : "none";
		const sentence = value
			? `${phrase`The reward model of round ${value.round}, beside ${value.answers} answers.`}${working ? ` ${phrase("A newer one is being asked …")}` : ""}`
			: visible(words);
		if (this.words.textContent !== sentence) this.words.textContent = sentence;
		if (!value) return;
		this.sides.replaceChildren(...Object.entries(value.teachers).map(([name, entry]) => teacher(name, entry)),
			repeats(this.status.last?.repeats));
		this.truth.hidden = value.true.correlation === null;
		this.together.textContent = this.truth.hidden ? "" : correlation(value.true);
		this.plot.setAttribute("aria-label", this.together.textContent);
		this.#plot();
		this.cards.fill(value.worst.map((entry) => [answerOf(entry),
			phrase`${visible(entry.teacher)} said ${inWords(entry.kind, entry.value)}`, foreseen(entry)]));
		this.traces.show(value.traces);
	}

	#plot() {
		const clips = this.report.value?.true.clips;
		if (clips && this.plot.clientWidth) scatter(this.plot, clips, [phrase("true return"), phrase("predicted return")]);
	}
}

/** A row of the comparison: a name, a share as number and bar (null: not known yet), and words. */
function side(name, share, words) {
	const row = element("li", {}, element("b", {}, name), element("span", { className: "aside" }, words));
	if (share === null) return row;
	const bar = element("span", { className: "bar" }, element("span"));
	bar.firstChild.style.width = `${100 * share}%`;
	row.firstChild.after(element("b", { className: "share" }, `${Math.round(100 * share)} %`), bar);
	return row;
}

function teacher(name, { answers, judged, decisive, agreement }) {
	const agreed = Math.round((agreement ?? 0) * decisive);
	return side(visible(name), agreement, decisive
		? phrase`the reward model sides with ${agreed} of ${decisive} decisive comparisons, in ${judged} of ${answers} answers: each judged by those of its networks that never learned from it`
		: judged ? "has preferred no side yet" : "all networks have learned from all of the answers");
}

function repeats(counts) {
	const { same, of } = counts ?? { same: 0, of: 0 };
	return side("You, asked again", of ? same / of : null, of
		? phrase`you agreed with yourself on ${same} of ${of} pairs shown twice`
		: "no pair has been shown to you twice yet");
}

/** Says how closely predicted and true returns go together. */
function correlation({ correlation: r, clips }) {
	const [, how] = [[0.9, "Predicted and true returns go together very closely."],
		[0.7, "Predicted and true returns go together closely."],
		[0.4, "Predicted and true returns go together loosely."], [0.15, "Predicted and true returns hardly go together."],
		[-0.15, "Predicted and true returns have nothing to do with each other."],
		[-1.1, "Predicted and true returns go against each other."]].find(([least]) => r >= least);
	return `${phrase(how)} ${phrase`The correlation of ${clips.length} clips is ${decimal(r, 2).replace("-", "−")}.`}`;
}
