// Keeps the next pairs ready: leased, fetched and decoded before they are needed.

import { connection, post, Refusal } from "./api.js";
import { Damaged, loadQuery } from "./clips.js";
import { heard, phrase } from "./language.js";

const AHEAD = 3;
const MOST = 30; // tickets that one request may hold; many undone ones are waiting their turn
const HEARTBEAT = 30000;
const AGAIN = 1500;
const BLIND = 5; // damaged queries after which, with none that could be shown, it must be the browser

/** The queries that come next; `onReady` hears when one is ready, or none will be, `onDamaged` of
 * those that cannot be shown: which, if only this page knows. */
export class Queue {
	/** `current` lists the tickets on screen and in the outbox. */
	constructor({ identity, current, onReady, onDamaged }) {
		Object.assign(this, { identity, current, onReady, onDamaged });
		Object.assign(this, { slots: [], words: "", filling: null, damaged: 0, loaded: new Map() });
		Object.assign(this, { shown: 0, unshown: 0 });
		setInterval(() => this.#beat(), HEARTBEAT);
		setInterval(() => this.slots.length < AHEAD && this.fill(), AGAIN);
		document.addEventListener("visibilitychange", () => this.#beat());
		connection.addEventListener("change", () => connection.gone || this.fill());
	}

	get held() {
		return [...this.current(), ...this.slots.map((slot) => slot.query.ticket)].slice(0, MOST);
	}

	fill() {
		if (document.hidden || this.#blind()) return null;
		this.filling ??= this.#ask(Math.max(0, AHEAD - this.slots.length))
			.finally(() => (this.filling = null));
		return this.filling;
	}

	/** Whether this browser shows none of the clips; then it must not skip all that there are. */
	#blind() {
		if (this.shown || this.unshown < BLIND) return false;
		this.words = phrase("This browser cannot show the clips. Open the page in another one.");
		this.onReady();
		return true;
	}

	#beat() {
		if (!document.hidden && (this.held.length || this.slots.length < AHEAD)) this.fill();
	}

	async #ask(count) {
		try {
			const said = await post("api/next", { ...this.identity(), count, held: this.held });
			const lost = new Set(said.lost);
			this.slots = this.slots.filter((slot) => !lost.has(slot.query.ticket));
			const known = new Set(this.held);
			for (const query of said.queries) if (!known.has(query.ticket)) this.#load(query);
			this.words = heard(said.words);
		} catch (error) {
			if (error instanceof Refusal) this.words = error.message;
		}
		this.onReady();
	}

	async #load(query) {
		const slot = { query, entry: null };
		this.slots.push(slot);
		await this.#fetch(slot);
	}

	async #fetch(slot) {
		try {
			slot.entry = await this.ready(slot.query);
			this.shown += 1;
			this.onReady();
		} catch (error) {
			const damaged = error instanceof Damaged;
			if (!damaged && (connection.gone || !error.final)) {
				setTimeout(() => this.slots.includes(slot) && this.#fetch(slot), AGAIN);
				return;
			}
			this.slots = this.slots.filter((other) => other !== slot);
			this.damaged += 1;
			this.unshown += damaged;
			this.onDamaged(damaged ? slot.query.ticket : "");
			this.fill();
		}
	}

	/** Loads a query, or takes it from the last that were loaded. */
	async ready(query) {
		const entry = this.loaded.get(query.ticket) ?? (await loadQuery(query));
		this.loaded.delete(query.ticket);
		this.loaded.set(query.ticket, entry);
		if (this.loaded.size > 30) this.loaded.delete(this.loaded.keys().next().value);
		return entry;
	}

	/** Takes the first query that is ready, or null. */
	take() {
		const index = this.slots.findIndex((slot) => slot.entry);
		if (index < 0) return null;
		const [slot] = this.slots.splice(index, 1);
		return slot.entry;
	}

	putBack(entry) {
		this.slots.unshift({ query: entry.query, entry });
	}
}
