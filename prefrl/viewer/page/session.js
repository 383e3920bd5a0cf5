// The course of labelling: what is on screen, what an answer does, and how it is taken back.

import { absence, connection, post, Refusal } from "./api.js";
import { element, find, randomId, say, visible } from "./dom.js";
import { heard, phrase } from "./language.js";
import { inWords, PairJudge } from "./pair.js";
import { RankingJudge } from "./ranking.js";
import { RatingsJudge } from "./ratings.js";

const GONE = phrase("The server does not answer; nothing was undone.");
const PARTS = ["stage", "transport", "judge"];
const GUARD = 250; // milliseconds after a pair appears in which nothing can be answered

/** Says who has made the right text of the left one, and why. */
export function revisionInWords({ revision }) {
	if (!revision) return "";
	const { by, principles, critiques } = revision;
	const why = principles.flatMap((said, i) => [phrase`Principle: ${visible(said)}`,
		...(critiques[i] ? [phrase`Critique: ${visible(critiques[i])}`] : [])]);
	return [phrase`${visible(by)} has made the right text of the left one.`, ...why].join(" ");
}

/** One person's sitting at the page. `mode` is "labelling", "practice" or "review"; `view` what is on screen. */
export class Session {
	constructor({ run, stage, outbox, identity }) {
		Object.assign(this, { run, stage, outbox, identity, mode: "labelling", view: "labelling" });
		Object.assign(this, { entry: null, busy: false, shownAt: 0, recent: [], aside: null });
		Object.assign(this, { remark: (value) => value, onRemark: () => null }); // what is added to an answer
		const answer = (kind, value) => this.answer(kind, value);
		const [pair, ranking, ratings] = [PairJudge, RankingJudge, RatingsJudge].map((Judge) => new Judge(answer));
		this.judges = { preference: pair, ranking, choice: ranking, ratings };
		if (run.guide?.ends) ratings.ends = run.guide.ends;
		this.judge = pair;
	}

	/** Tickets that this page has, beyond the queue's: on screen or waiting behind it, and unsent. */
	get tickets() {
		const entry = this.mode === "labelling" ? this.entry : this.aside;
		const unsent = this.outbox.items.map((item) => item.body.ticket).filter(Boolean);
		return [...(entry ? [entry.query.ticket] : []), ...unsent];
	}

	setState(state) {
		document.body.dataset.state = this.view === "labelling" ? state : this.view;
	}

	next() {
		if (this.mode !== "labelling") return;
		const entry = this.queue.take();
		if (entry) this.show(entry);
		else this.wait();
		this.queue.fill();
	}

	/** Puts a loaded query on screen; `was` is the answer that it had before. */
	show(entry, was = null) {
		const { query } = entry;
		this.entry = entry;
		this.busy = false;
		find("waiting").hidden = true;
		for (const id of PARTS) find(id).hidden = false;
		find("question").textContent = visible(query.question || this.run.question);
		this.judge = this.judges[query.kind] ?? this.judges.preference;
		if (this.judge.root.parentNode !== find("judge")) find("judge").replaceChildren(this.judge.root);
		this.note(was ? phrase`You had said: ${inWords(was.kind, was.value)}.` : revisionInWords(query));
		this.stage.show(entry);
		this.judge.open(query, was);
		this.onShown();
		this.onRemark(was);
		this.shownAt = performance.now();
		this.shownTime = Date.now() / 1000;
		document.body.dataset.ticket = query.ticket;
		this.setState(this.mode);
		this.#announce(entry);
	}

	#announce({ query, clips }) {
		const shown = clips.map((clip) => ({ ...clip, geoms: clip.scene?.geoms.length }));
		const detail = { ticket: query.ticket, clips: shown };
		document.dispatchEvent(new CustomEvent("prefrl:pair", { detail }));
	}

	note(text, ...buttons) {
		find("note").hidden = !text;
		find("note").replaceChildren(element("span", {}, text), ...buttons);
	}

	/** Says that there is nothing to label, and why. */
	wait() {
		this.entry = null;
		const { slots, filling, words } = this.queue;
		const loading = !words && (slots.length > 0 || filling);
		document.body.dataset.ticket = "";
		const offline = connection.trainer.state === "finished" ? "finished" : "offline";
		this.setState(connection.gone ? offline : loading ? "loading" : "waiting");
		for (const id of [...PARTS, "prompt", "note"]) find(id).hidden = true;
		find("waiting").hidden = false;
		find("question").textContent = visible(this.run.question);
		find("waiting-words").textContent = connection.gone
			? absence()
			: visible(words) || phrase(loading ? "Fetching the clips …" : "There is nothing to label just now.");
	}

	/** Something became ready, or the server said why not. */
	wake() {
		if (this.mode !== "labelling" || this.entry || this.busy) return;
		if (this.queue.slots.some((slot) => slot.entry)) this.next();
		else this.wait();
	}

	/** Takes an answer; returns whether it counted. */
	answer(kind, value) {
		const given = this.give(kind, value);
		if (given) this.goOn(given);
		return Boolean(given);
	}

	/** Sends an answer; returns it, or null if it cannot be taken now. What it was to stays on screen. */
	give(kind, value) {
		const { entry } = this;
		if (!entry || this.busy || performance.now() - this.shownAt < GUARD) return null;
		const identity = this.identity();
		const { ticket } = entry.query;
		const said = this.remark(value);
		this.busy = true;
		const uuid = this.mode === "practice" ? randomId() : this.outbox.add("api/answer", { ...identity, ticket,
			kind, value: said, shown_at: this.shownTime, answered_at: Date.now() / 1000 });
		return { entry, was: { kind, value: said }, meant: { ...identity, ticket, answer: uuid } };
	}

	/** Goes on to what comes after an answer. */
	goOn(given) {
		const words = inWords(given.was.kind, given.was.value);
		this.busy = false;
		if (this.mode === "practice") {
			this.onPractised(given);
		} else if (this.mode === "review") {
			say(phrase`Noted: ${words}.`);
			this.onReviewed();
		} else {
			this.recent.push(given);
			if (this.recent.length > 40) this.recent.shift();
			this.entry = null;
			this.next();
			say(phrase`Noted: ${words}.`, { quiet: true });
		}
	}

	/** Takes the last answer of this page back, or the person's newest, and shows its query again. */
	async undo() {
		if (this.busy || this.mode !== "labelling") return;
		this.busy = true;
		try {
			await this.outbox.flush();
			if (this.outbox.items.length) this.#undoHere();
			else await this.#undoThere();
		} catch (error) {
			say(error instanceof Refusal ? error.message : GONE);
		} finally {
			this.busy = false;
		}
	}

	async #undoThere() {
		const last = this.recent.at(-1);
		const meant = last?.meant ?? this.identity();
		const { query, was, words } = await post("api/undo", { ...meant, uuid: randomId() });
		this.recent = this.recent.filter((other) => other !== last);
		if (!query) return say(heard(words));
		const entry = await this.queue.ready(query).catch(() => null);
		return entry ? this.#bringBack(entry, was) : say("Undone; its clips cannot be shown just now.");
	}

	/** While the server is gone: the answer leaves the outbox, or its undoing joins it. */
	#undoHere() {
		const last = this.recent.pop();
		if (!last) return say(GONE);
		if (!this.outbox.withdraw(last.meant.answer)) this.outbox.add("api/undo", last.meant);
		return this.#bringBack(last.entry, last.was);
	}

	#bringBack(entry, was) {
		if (this.entry) this.queue.putBack(this.entry);
		this.show(entry, was);
		say("Undone. Here it is again.", { quiet: true });
	}

	/** Shows queries that are not the queue's; what was on screen waits. */
	enter(mode, entry, was = null) {
		if (this.mode === "labelling") this.aside = this.entry;
		this.mode = mode;
		this.show(entry, was);
	}

	/** Goes back to labelling, to the query that waited. */
	leave() {
		const waiting = this.aside;
		Object.assign(this, { mode: "labelling", aside: null, entry: null });
		if (waiting) this.show(waiting);
		else this.next();
	}
}
