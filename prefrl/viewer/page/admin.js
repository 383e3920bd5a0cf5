// The view of a run's admins: who answers how, what waits, what was set aside, which answers are known.

import { get, getBytes, post, Refusal, refused } from "./api.js";
import { aboutAnswer } from "./cards.js";
import { button, duration, element, find, say, visible } from "./dom.js";
import { decimal, phrase } from "./language.js";
import { inWords } from "./pair.js";

const OFTEN = 3000; // milliseconds between two questions
const LONGEST_NAME = 24; // characters of a name in a table; all of it is in its title
const LONGEST_REMARK = 140;
const NEXT = 10; // queries that are listed as asked next
const COMPARING = ["preference", "tie", "ranking", "ratings"]; // answers that may be known
const NONE = "–";
const STATES = { paused: phrase("paused"), withdrawn: phrase("withdrawn") }; // of a link

const percent = (share) => decimal(share, 0, { style: "percent" });

/** Writes a share with its interval, and of how many it is. */
function withInterval(found) {
	if (!found) return NONE;
	const [low, high] = found.interval;
	const [from, to] = [decimal(100 * low), decimal(100 * high)];
	return found.of === undefined ? phrase`${percent(found.mean)} (${from} to ${to})`
		: phrase`${percent(found.mean)} of ${found.of} (${from} to ${to})`;
}

/** Shows what somebody wrote, shortened, in a direction of its own. */
function shortened(text, most) {
	const whole = visible(text);
	const characters = [...whole];
	const shown = characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : whole;
	return element("bdi", { title: whole }, shown);
}

const named = (name) => shortened(name, LONGEST_NAME);

/** A table with a heading for each column; a row is a list of texts and elements. */
function table(caption, columns, rows) {
	const cell = (tag) => (content) => element(tag, {}, content);
	return element("div", { className: "table" }, element("table", {}, element("caption", {}, caption),
		element("thead", {}, element("tr", {}, ...columns.map(cell("th")))),
		element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell("td")))))));
}

/** The view; what it shows is asked for every few seconds while it is open. */
export class Admin {
	constructor(session, views, report) {
		Object.assign(this, { session, views, report, timer: 0, value: null });
		this.title = element("h2", { tabIndex: -1 }, "Admin");
		this.words = element("p", { className: "aside" });
		this.words.setAttribute("role", "status");
		this.body = element("div", { className: "tables" });
		const download = (name) => button(name, () => this.#download(name), { className: "small" });
		const all = (label, paused) => button(label, () => this.#tell("api/pause", { paused }), { className: "small" });
		const root = element("main", { id: "admin", className: "list-view", hidden: true, aria: { label: "Admin" } },
			element("div", { className: "list-head" }, this.title, download("answers.csv"), download("answers.jsonl"),
				all("Pause all labellers", true), all("Let all go on", false),
				button("Back to labelling", () => views.toggle("admin"), { key: "O", className: "primary" })),
			this.words, this.body);
		find("inspect").after(root);
		find("open-keys").before(button("Admin", () => views.toggle("admin"), { id: "open-admin", key: "O" }));
		find("open-admin").setAttribute("aria-pressed", "false");
		document.addEventListener("visibilitychange", () => this.#ask());
		report.addEventListener("change", () => session.view === "admin" && this.#show());
		views.lists.admin = this;
		views.marks = (answer) => this.marks(answer);
	}

	enter() {
		this.#ask();
		this.report.watch(this);
	}

	leave() {
		clearTimeout(this.timer);
		this.report.unwatch(this);
	}

	/** Buttons beside an answer that is looked at again. */
	marks(answer) {
		if (!answer.answer || answer.gold || !COMPARING.includes(answer.kind)) return [];
		const mark = button("Make it a gold question", async () => {
			if (await this.#tell("api/gold", { answer: answer.answer })) mark.remove();
		}, { className: "small" });
		return [mark];
	}

	async #ask() {
		clearTimeout(this.timer);
		if (document.hidden || this.session.view !== "admin") return;
		try {
			this.value = await get("api/admin");
			this.#show();
		} catch (error) {
			this.words.textContent = error instanceof Refusal ? refused(error)
				: phrase("The server does not answer; this page goes on by itself when it is back.");
		}
		clearTimeout(this.timer);
		if (this.session.view === "admin") this.timer = setTimeout(() => this.#ask(), OFTEN);
	}

	/** Does what a button asks for; returns whether it could be done. */
	async #tell(path, body) {
		try {
			await post(path, { ...this.session.identity(), ...body });
		} catch (error) {
			say(error instanceof Refusal ? refused(error) : "The server does not answer; nothing was changed.");
			return false;
		}
		say("Done.");
		this.#ask();
		return true;
	}

	async #download(name) {
		const bytes = await getBytes(`api/${name}`).catch(() => null);
		if (!bytes) return say("The answers cannot be had just now.");
		const address = URL.createObjectURL(new Blob([bytes]));
		element("a", { href: address, download: name }).click();
		setTimeout(() => URL.revokeObjectURL(address), 1000);
	}

	async #look(answer) {
		try {
			const { query } = await get(`api/query/${answer.ticket}`);
			await this.views.review(answer, query);
		} catch {
			say("These clips cannot be shown here.");
		}
	}

	#show() {
		const { value } = this;
		if (!value || this.body.contains(document.activeElement) && document.activeElement.matches("button:active")) return;
		const focused = document.activeElement?.dataset.does; // tables are built anew; the focus stays where it was
		this.words.textContent = this.#alpha();
		this.body.replaceChildren(this.#people(), ...this.#broken(), ...this.#comments(), ...this.#queue(), ...this.#gold());
		document.body.dataset.admin = "shown";
		if (focused) this.body.querySelector(`[data-does="${CSS.escape(focused)}"]`)?.focus();
	}

	#alpha() {
		const { alpha, queries } = this.report.value?.labellers ?? {};
		if (!queries) return phrase("Agreement and reliabilities are known once several have answered the same and a reward is fitted.");
		const [from, to] = (alpha?.interval ?? [0, 0]).map((end) => decimal(end, 2));
		return alpha ? phrase`Krippendorff's alpha on ${queries} queries that several answered: ${decimal(alpha.mean, 2)} (${from} to ${to}).`
			: phrase("All queries that several answered were answered alike.");
	}

	#small(label, does, act) {
		return button(label, act, { className: "small", data: { does } });
	}

	#people() {
		const each = this.report.value?.labellers?.each ?? {};
		return table("Labellers", [phrase("name"), phrase("link"), phrase("answers"), "a minute", phrase("median"), "about equal", "can't tell",
			"left of preferences", "gold right", phrase("reliability"), ""], this.value.people.map((one) => [named(one.person), this.#link(one.link),
			String(one.answers), one.per_minute ? decimal(one.per_minute, 1) : NONE,
			one.seconds === null ? NONE : phrase`${decimal(one.seconds, 1)} s`,
			one.answers ? percent(one.ties / one.answers) : NONE, one.answers ? percent(one.skips / one.answers) : NONE,
			withInterval(one.left), withInterval(one.gold), withInterval(each[one.person]?.reliability), this.#pause(one)]));
	}

	#link(link) {
		if (!link) return phrase("no link");
		const role = link.admin ? phrase("admin") : phrase("labeller");
		return link.state === "open" ? role : phrase`${role}, ${STATES[link.state]}`;
	}

	#pause({ person, link }) {
		if (!link || link.state === "withdrawn") return "";
		const paused = link.state === "paused";
		return this.#small(paused ? "Go on" : "Pause", `pause:${person}`,
			() => this.#tell("api/pause", { labeller: person, paused: !paused }));
	}

	#queue() {
		const { open, waiting } = this.value;
		const held = waiting.filter(({ person }) => person);
		const people = [...new Set(held.map(({ person }) => person))];
		const theirs = people.map((person) => held.filter((one) => one.person === person));
		const next = waiting.filter(({ person }) => !person).slice(0, NEXT);
		return [table(phrase`Queue: ${open} open, ${held.length} of them in front of somebody`, ["in front of", phrase("queries"), phrase("longest")],
			theirs.map((all) => [named(all[0].person), String(all.length), duration(Math.max(...all.map(({ since }) => since)))])),
		table("Asked next", [phrase("query"), "", ""], next.map(({ ticket, priority }) => [ticket, priority ? phrase("before all others") : "",
			this.#small("Ask it first", `front:${ticket}`, () => this.#tell("api/front", { ticket }))]))];
	}

	#gold() {
		const { questions, share, newest } = this.value.gold;
		const caption = phrase`Gold questions: ${questions}, ${percent(share)} of what people are asked`;
		if (!questions) return [];
		return [table(caption, [phrase("query"), "known answer", "who knows it", ""], newest.map(({ ticket, person, kind, value }) => [ticket,
			inWords(kind, value), named(person), this.#small("No longer gold", `gold:${ticket}`, () => this.#tell("api/gold", { ticket }))]))];
	}

	#broken() {
		return this.#said("Set aside as broken", this.value.broken, (one) => inWords(one.kind, one.value));
	}

	#comments() {
		return this.#said("Comments", this.value.comments, (one) => inWords(one.kind, one.value));
	}

	#said(caption, list, what) {
		if (!list.length) return [];
		return [table(caption, [phrase("query"), "who, when", phrase("answer"), phrase("words"), ""], list.map((one) => [one.ticket,
			element("span", {}, named(one.person), aboutAnswer({ ...one, person: "" })), what(one),
			shortened(one.value.comment ?? "", LONGEST_REMARK), this.#small("Look", `look:${one.answer}`, () => this.#look(one))]))];
	}
}
