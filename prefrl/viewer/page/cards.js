// Cards of answers that were given: small pictures of the clips, what was said, and more about it.

import { get } from "./api.js";
import { Camera } from "./camera.js";
import { fit, loadClip, makeDrawer } from "./clips.js";
import { lastReply } from "./conversation.js";
import { element, say, visible } from "./dom.js";
import { decimal, phrase } from "./language.js";
import { inWords } from "./pair.js";

const SHOWN = 4; // clips of a card

/** Says who answered, when, and how long it took. */
export function aboutAnswer({ person, answered_at: at, seconds }) {
	if (!at) return visible(person);
	const time = new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
	return phrase`${visible(person)}, ${time}, ${decimal(Math.max(0, seconds), 1)} s`;
}

/** A list of cards, each opening one answer. */
export class AnswerCards {
	constructor(views) {
		Object.assign(this, { views, camera: new Camera(), list: element("ul", { className: "answers-list" }) });
		this.seen = new IntersectionObserver((entries) => entries.forEach((entry) => this.#see(entry)));
	}

	clear() {
		this.seen.disconnect();
		this.list.replaceChildren();
	}

	/** Adds a card; an answer without its query is asked for by its ticket. */
	add(answer, title, ...lines) {
		this.list.append(this.#item(answer, title, lines));
	}

	/** Shows cards of [answer, title, line, …]; those that are there already stay as they are. */
	fill(rows) {
		const there = new Map([...this.list.children].map((item) => [item.key, item]));
		const focused = document.activeElement;
		this.list.replaceChildren(...rows.map((row) => {
			const key = JSON.stringify(row);
			const [answer, title, ...lines] = row;
			return there.get(key) ?? Object.assign(this.#item(answer, title, lines), { key });
		}));
		if (this.list.contains(focused)) focused.focus();
	}

	#item(answer, title, lines) {
		const stills = element("span", { className: "stills" });
		const card = { answer: { ...answer }, stills };
		const open = element("button", { type: "button", className: "answer-card" }, stills, element("b", {}, title),
			...lines.map((line) => element("span", { className: "said-when" }, line)));
		card.open = open;
		open.addEventListener("click", () => this.#open(card));
		stills.card = card;
		this.seen.observe(stills);
		return element("li", {}, open);
	}

	async #queryOf({ answer }) {
		answer.query ??= (await get(`api/query/${answer.ticket}`)).query;
		return answer.query;
	}

	async #see({ target, isIntersecting }) {
		if (!isIntersecting) return;
		this.seen.unobserve(target);
		try {
			await this.#picture(target, await this.#queryOf(target.card), target.card.answer);
		} catch {
			target.append(element("span", { className: "still" }, "These clips cannot be shown."));
		}
	}

	async #picture(stills, query, { kind, value }) {
		const best = { preference: () => [value.left > 0.5 ? 0 : 1], ranking: () => value.order[0] }[kind]?.() ?? [];
		const pictures = query.clips.slice(0, SHOWN).map((clip, index) => {
			const className = best.includes(index) ? "still best" : "still";
			if (clip.form !== "text") return element("canvas", { className });
			return element("span", { className, dir: "auto" }, visible(lastReply(clip).slice(0, 120)) || phrase("(empty)"));
		});
		stills.replaceChildren(...pictures);
		await Promise.all(query.clips.slice(0, SHOWN).map(async (described, index) => {
			if (described.form === "text") return;
			const clip = await loadClip(described);
			fit(pictures[index]);
			makeDrawer(clip, pictures[index], this.camera).draw(Math.floor(clip.frames / 2), { ghost: "none" });
		}));
	}

	async #open(card) {
		this.opened = card.open;
		const query = await this.#queryOf(card).catch(() => null);
		if (query) this.views.review(card.answer, query);
		else say("These clips cannot be shown here.");
	}
}
