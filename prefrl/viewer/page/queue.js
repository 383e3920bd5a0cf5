// Keeps the next pairs ready: leased, fetched and decoded before they are needed.

import { connection, post, Refusal } from "./api.js";
import { loadQuery } from "./clips.js";

const AHEAD = 3;
const MOST = 30; // tickets that one request may hold; many undone ones are waiting their turn
const HEARTBEAT = 30000;
const AGAIN = 1500;

/** The queries that come next; `onReady` hears when one is ready, or none will be. */
export class Queue {
	/** `current` lists the tickets on screen and in the outbox. */
	constructor({ identity, current, onReady, onDamaged }) {
		Object.assign(this, { identity, current, onReady, onDamaged });
		Object.assign(this, { slots: [], words: "", filling: null, damaged: 0, loaded: new Map() });
		setInterval(() => this.#beat(), HEARTBEAT);
		setInterval(() => this.slots.length < AHEAD && this.fill(), AGAIN);
		document.addEventListener("visibilitychange", () => this.#beat());
		connection.addEventListener("change", () => connection.gone || this.fill());
	}

	get held() {
		return [...this.current(), ...this.slots.map((slot) => slot.query.ticket)].slice(0, MOST);
	}

	fill() {
		if (document.hidden) return null;
		this.filling ??= this.#ask(Math.max(0, AHEAD - this.slots.length))
			.finally(() => (this.filling = null));
		return this.filling;
	}

	#beat() {
		if (!document.hidden && (this.held.length || this.slots.length < AHEAD)) this.fill();
	}

	async #ask(count) {
		try {
			const said = await post("/api/next", { ...this.identity(), count, held: this.held });
			const lost = new Set(said.lost);
			this.slots = this.slots.filter((slot) => !lost.has(slot.query.ticket));
			const known = new Set(this.held);
			for (const query of said.queries) if (!known.has(query.ticket)) this.#load(query);
			this.words = said.words;
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
			this.onReady();
		} catch {
			if (connection.gone) {
				setTimeout(() => this.slots.includes(slot) && this.#fetch(slot), AGAIN);
				return;
			}
			this.slots = this.slots.filter((other) => other !== slot);
			this.damaged += 1;
			this.onDamaged();
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
