// The newest clips, each above the reward that the model predicts for every step of it. Those that
// are looked at move, never more than two, so that it stays light.

import { get } from "./api.js";
import { Camera } from "./camera.js";
import { fit, loadQuery, makeDrawer } from "./clips.js";
import { lastReply } from "./conversation.js";
import { Clock } from "./clock.js";
import { element, visible } from "./dom.js";
import { phrase } from "./language.js";
import { inWords } from "./pair.js";
import { rangeOf, RewardLine, signed } from "./plots.js";
import { ticketOf } from "./report.js";
import { onTheme } from "./shade.js";

const JUST = 400; // milliseconds after it began to move in which a click does not stop it again
const PACE = 30; // milliseconds between two pictures, at least

/** The list of queries; of one at a time the clips move. */
export class RewardTraces {
	constructor(stage) {
		Object.assign(this, { list: element("ul", { className: "predictions" }), camera: new Camera(), active: null });
		this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
		this.seen = new IntersectionObserver((entries) => entries.forEach((entry) => this.#see(entry)));
		this.sized = new ResizeObserver(() => this.#redraw());
		this.sized.observe(this.list);
		onTheme(() => this.#redraw());
		stage.tasks.push((now) => this.#tick(now));
	}

	/** Shows the report's traces; those that are there already stay as they are. */
	show(traces) {
		const there = new Map([...this.list.children].map((item) => [item.entry.key, item]));
		const focused = document.activeElement;
		this.list.replaceChildren(...traces.map((trace) => {
			const key = JSON.stringify(trace);
			return there.get(key) ?? this.#item(trace, key);
		}));
		if (this.list.contains(focused)) focused.focus();
		if (this.active && !this.list.contains(this.active.root)) this.active = null;
	}

	#item({ round, index: number, rewards, answers }, key) {
		const range = rangeOf(rewards);
		const pair = rewards.length === 2;
		const root = element("li", { className: "prediction" });
		const entry = { root, key, ticket: ticketOf({ round, index: number }), clock: new Clock({ playing: false }), only: null };
		entry.clips = rewards.map((steps, index) => {
			const name = pair ? phrase(["Left", "Right"][index]) : `${index + 1}`;
			const [canvas, trace] = [element("canvas"), element("canvas", { className: "trace" })];
			const line = new RewardLine(trace, steps, range);
			const sum = phrase`in all ${signed(line.sum)}`;
			const play = element("button", { type: "button", className: "moves",
				aria: { label: phrase`${name} clip of query ${entry.ticket}; moves while it is looked at` } }, canvas);
			trace.setAttribute("role", "img");
			trace.setAttribute("aria-label", phrase`Predicted reward of each step: ${sum}, highest at step ${line.best + 1}`);
			const figure = element("figure", {}, play, trace,
				element("figcaption", {}, element("b", {}, name), ` ${sum}`));
			const clip = { figure, canvas, trace, play, line, drawer: null, shown: line.best };
			this.#listen(entry, clip, index);
			return clip;
		});
		root.append(element("div", { className: "clips" }, ...entry.clips.map((clip) => clip.figure)),
			...answers.map(({ teacher, kind, value }) =>
				element("p", { className: "aside" }, phrase`${visible(teacher)} said ${inWords(kind, value)}`)));
		root.entry = entry;
		this.seen.observe(root);
		return root;
	}

	#listen(entry, { figure, play, trace }, index) {
		figure.addEventListener("pointerenter", (event) =>
			event.pointerType === "mouse" && !this.still && this.#start(entry, index));
		entry.root.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.#stop(entry));
		play.addEventListener("focus", () => this.still || this.#start(entry, index));
		play.addEventListener("blur", () => this.#stop(entry));
		play.addEventListener("click", () => {
			if (this.active !== entry) this.#start(entry, index);
			else if (performance.now() - this.since > JUST) entry.clock.toggle();
		});
		const seek = (event) => {
			if (this.active !== entry) this.#start(entry, index);
			const { left, width } = trace.getBoundingClientRect();
			entry.clock.seek(entry.clips[index].line.at((event.clientX - left - 5) / (width - 10)));
		};
		trace.addEventListener("pointermove", seek);
		trace.addEventListener("pointerdown", seek);
		trace.addEventListener("pointerleave", (event) =>
			event.pointerType === "mouse" && this.active === entry && !this.still && this.#start(entry, index));
	}

	/** Lets a query's clips move: both of a pair, of more the one that is looked at. */
	#start(entry, index) {
		if (this.active !== entry) this.since = performance.now();
		this.active = entry;
		Object.assign(entry.clock, { playing: true, last: null });
		entry.only = entry.clips.length > 2 ? index : null;
	}

	#stop(entry) {
		if (this.active === entry) this.active = null;
	}

	/** Does what a key asks of the clips that move; returns whether there are any. */
	act(name) {
		const clock = this.active?.clock;
		const deeds = { play: () => clock.toggle(), back: () => clock.step(-1), on: () => clock.step(1),
			restart: () => clock.restart(), slower: () => clock.shift(-1), faster: () => clock.shift(1) };
		if (!clock || !deeds[name]) return false;
		deeds[name]();
		return true;
	}

	async #see({ target, isIntersecting }) {
		if (!isIntersecting) return;
		this.seen.unobserve(target);
		const { entry } = target;
		try {
			const { query } = await get(`api/query/${entry.ticket}`);
			const { clips } = await loadQuery(query);
			entry.clock.load(Math.max(...clips.map((clip) => clip.frames)), clips[0].dt);
			entry.clips.forEach((clip, index) => this.#fill(clip, clips[index]));
		} catch {
			target.replaceChildren(element("p", { className: "aside" }, "These clips cannot be shown any more."));
		}
	}

	#fill(clip, loaded) {
		if (loaded.form === "text") clip.play.replaceChildren(element("span", { dir: "auto" }, visible(lastReply(loaded)) || phrase("(empty)")));
		else clip.drawer = makeDrawer(loaded, clip.canvas, this.camera);
		this.#draw(clip, clip.shown);
	}

	/** Draws a clip and its line at a point in time; at first that is where it earns most. */
	#draw(clip, position) {
		clip.shown = position;
		clip.figure.dataset.frame = Math.floor(position);
		if (clip.drawer) {
			fit(clip.canvas);
			clip.drawer.draw(Math.min(position, clip.drawer.frames - 1), { ghost: "none" });
		}
		clip.line.draw(position);
	}

	#redraw() {
		if (!this.list.clientWidth) return; // not on screen
		for (const { entry } of this.list.children) {
			for (const clip of entry.clips) if (clip.drawer) this.#draw(clip, clip.shown);
		}
	}

	#tick(now) {
		const entry = this.active;
		if (!entry || !this.list.clientWidth || now - this.drawn < PACE) return;
		this.drawn = now;
		entry.clock.tick(now);
		entry.clips.forEach((clip, index) => {
			const idle = entry.only !== null && entry.only !== index;
			if (!idle && clip.drawer && clip.shown !== entry.clock.position) this.#draw(clip, entry.clock.position);
		});
	}
}
