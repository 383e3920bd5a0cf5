// Talking to the server: requests that give up, and an outbox that loses no answer.

import { keep, randomId, remember, remembered } from "./dom.js";
import { heard, phrase } from "./language.js";

const PATIENCE = 12000; // milliseconds after which a silent server counts as gone

const FINAL = [400, 404, 410, 413, 415]; // no retry can change these

/** The server understood, and said no; its message is a sentence for the person. */
export class Refusal extends Error {
	constructor(status, message, ours) {
		super(message);
		this.status = status;
		this.ours = ours; // what a stranger on this port says is not
		this.final = ours && FINAL.includes(status);
	}
}

/** Returns what the server said of a request that it refused, as a sentence of its own. */
export const refused = ({ message }) => `${message[0].toUpperCase()}${message.slice(1)}.`;

/** Says whether the server answers, and when that changes; `trainer` is what it last said of the run. */
export const connection = Object.assign(new EventTarget(), { gone: false, trainer: {} });

/** Says what it means that the server does not answer: it closes once the run has finished. */
export function absence() {
	const { state, round, rounds } = connection.trainer;
	const reopen = phrase("`prefrl label RUN` opens the page again.");
	if (state === "finished") return phrase`The run has finished, and the server of this page has closed. ${reopen}`;
	const last = rounds > 0 && round >= rounds && state !== "stopped";
	return last
		? phrase`The server does not answer. The run was in its last round, so it may have finished; ${reopen}`
		: phrase("The server does not answer. This page goes on by itself when it is back.");
}

function note(gone) {
	if (connection.gone === gone) return;
	connection.gone = gone;
	connection.dispatchEvent(new Event("change"));
}

const HOLDER = `token:${new URL(".", location).pathname}`; // of this origin, below this path, alone
let token = remember(HOLDER);

/** Takes the token out of the page's address and keeps it; a cookie would be shown to other ports. That of
 * a person's own link is behind the #, which a browser sends to nobody: no proxy writes it down. */
export function enter() {
	const address = new URL(location);
	const given = address.searchParams.get("token") ?? new URLSearchParams(address.hash.slice(1)).get("token");
	if (given === null) return;
	token = given;
	keep(HOLDER, token);
	if (remember(HOLDER) !== token) return; // a browser that keeps nothing must find it there again
	address.searchParams.delete("token");
	address.hash = "";
	history.replaceState(null, "", address);
}

addEventListener("hashchange", () => location.reload()); // another link was opened in this tab

let run = null; // the id of the run that this page is about; another one's server must refuse it

/** Says which run every request from now on is about. */
export const speakOf = (id) => (run = id);

async function request(path, options = {}) {
	const abort = new AbortController();
	const timer = setTimeout(() => abort.abort(), PATIENCE);
	try {
		const headers = { ...options.headers, "X-Prefrl-Token": token ?? "", ...(run ? { "X-Prefrl": run } : {}) };
		const response = await fetch(path, { ...options, headers, signal: abort.signal });
		const said = response.ok ? {} : await response.json().catch(() => ({}));
		if (response.status >= 500 && !said.error) throw new Error("a proxy says that nobody is behind it");
		note(false);
		if (response.ok) return response;
		if (response.status === 403) token = remember(HOLDER) ?? token; // another tab may have a newer one
		const why = said.error ? heard(said.error) : phrase`The server answered ${response.status}.`;
		throw new Refusal(response.status, why, Boolean(said.error));
	} catch (error) {
		if (!(error instanceof Refusal)) note(true);
		throw error;
	} finally {
		clearTimeout(timer);
	}
}

/** Fetches JSON. */
export const get = async (path) => (await request(path)).json();

/** Fetches a clip's bytes. */
export const getBytes = async (path) => (await request(path)).arrayBuffer();

/** Posts JSON and returns what the server says. */
export async function post(path, body, options = {}) {
	const headers = { "Content-Type": "application/json" };
	const text = JSON.stringify(body);
	return (await request(path, { method: "POST", headers, body: text, ...options })).json();
}


/** Holds answers until the server has acknowledged them, over reloads and restarts. */
export class Outbox {
	/** `prefix` keeps runs apart. */
	constructor(prefix, { onChange, onRefused }) {
		Object.assign(this, { prefix, onChange, onRefused, items: [], saved: 0, sending: null });
		// One entry for each item, so that two tabs never overwrite each other's list.
		for (const name of remembered(`${prefix}:unsaved:`)) {
			const item = remember(name);
			if (item?.body) this.items.push({ ...item, name, attempts: 1 });
		}
		this.delay = 500;
	}

	get count() {
		return this.items.filter((item) => item.path === "api/answer").length;
	}

	/** Adds a request; returns its uuid. It is sent at once, and again until acknowledged. */
	add(path, body) {
		const uuid = randomId();
		const item = { path, body: { ...body, uuid } };
		const name = `${this.prefix}:unsaved:${Date.now()}-${uuid}`;
		keep(name, item);
		this.items.push({ ...item, name, attempts: 0 });
		this.onChange();
		this.flush();
		return uuid;
	}

	/** Takes out an answer that was never sent; returns whether it could. */
	withdraw(uuid) {
		const item = this.items.find((candidate) => candidate.body.uuid === uuid);
		if (!item || item.attempts > 0) return false;
		this.#remove(item);
		return true;
	}

	#remove(item) {
		keep(item.name, null);
		this.items = this.items.filter((other) => other !== item);
		this.onChange();
	}

	/** Sends everything in order; resolves when it is empty or the server is gone. */
	flush() {
		this.sending ??= this.#send().finally(() => {
			this.sending = null;
			if (this.items.length) this.#later();
		});
		return this.sending;
	}

	#later() {
		clearTimeout(this.timer);
		this.timer = setTimeout(() => this.flush(), this.delay);
		this.delay = Math.min(this.delay * 2, 4000);
	}

	async #send() {
		while (this.items.length) {
			const item = this.items[0];
			item.attempts += 1;
			try {
				await post(item.path, item.body);
				if (item.path === "api/answer") this.saved += 1;
				this.delay = 500;
			} catch (error) {
				if (error instanceof Refusal) this.onRefused(error, item);
				if (!error.final) return;
			}
			this.#remove(item);
		}
	}
}
