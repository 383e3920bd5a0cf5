// The clips on the page: panels in a grid, drawn by one loop from one clock.

import { Camera, attachGestures } from "./camera.js";
import { fit, makeDrawer } from "./clips.js";
import { commonMessages, conversation, lastReply } from "./conversation.js";
import { element, find } from "./dom.js";
import { phrase } from "./language.js";
import { momentsOf } from "./marks.js";
import { onTheme } from "./shade.js";
import { differences, linkScrolling } from "./text.js";

const SLOW = 24; // milliseconds between pictures above which they get coarser
const STAY = 0.5; // seconds for which the end of an episode stays to be seen, and what is said of a moment

/** Says what is to be known of the moment that a clip shows. */
function remark(clip, frame) {
	if (frame >= clip.frames) return phrase("ended, holds its last frame");
	const passed = momentsOf(clip).filter(([at]) => at <= frame);
	return passed.findLast(([at]) => frame < at + STAY / clip.dt || at === clip.still)?.[1] ?? "";
}

/** Returns the frames of a clip, with those for which its end stays, without those in which nothing moves. */
function duration({ frames, ended, dt, still = null }) {
	const stay = Math.round(STAY / dt);
	return still === null ? frames + (ended ? stay : 0) : Math.min(frames, still + stay);
}

/** Shows the clips of one query. */
export class Stage {
	constructor(root, clock) {
		Object.assign(this, { root, clock, camera: new Camera(), panels: [], drawers: [], entry: null });
		Object.assign(this, { ghost: "start", dirty: true, shown: null, pace: 16, tasks: [], last: 0 });
		Object.assign(this, { linked: false, different: false, lengths: false, raw: false, smoothAfter: 0 });
		new ResizeObserver(() => this.redraw()).observe(root);
		onTheme(() => this.redraw());
		const loop = (now) => {
			requestAnimationFrame(loop);
			this.#tick(now);
		};
		requestAnimationFrame(loop);
	}

	/** What the clips on screen are called. */
	get names() {
		return this.panels.map((panel) => panel.name.textContent);
	}

	redraw() {
		this.dirty = true;
	}

	/** Puts the clips of a loaded query on the page, and draws them at once. */
	show(entry) {
		const { query, clips } = entry;
		this.entry = entry;
		const { form } = clips[0];
		const text = form === "text";
		Object.assign(this.root.dataset, { form, count: clips.length });
		while (this.panels.length < clips.length) this.#addPanel();
		this.panels.forEach((panel, index) => {
			panel.root.hidden = index >= clips.length;
			panel.canvas.hidden = text;
			panel.page.hidden = !text;
			Object.assign(panel.mark, { hidden: true, textContent: "" });
			panel.root.dataset.place = "";
			this.#name(panel, index, query.kind === "preference");
		});
		find("prompt").hidden = true;
		this.drawers = clips.map((clip, index) =>
			makeDrawer(clip, this.panels[index].canvas, this.camera, this.panels[index].page));
		this.panels.forEach((panel) => (panel.page.scrollTop = 0));
		if (text) this.#showText(clips);
		this.clock.load(Math.max(...clips.map(duration)), clips[0].dt);
		this.dirty = true;
		this.#draw();
	}

	#addPanel() {
		const index = this.panels.length;
		const canvas = element("canvas", { data: { clip: index } });
		canvas.setAttribute("role", "img");
		const page = element("div", { className: "page-of-text", tabIndex: 0 });
		page.setAttribute("role", "region");
		const name = element("figcaption");
		const mark = element("p", { className: "held", hidden: true });
		const root = element("figure", { className: "clip", data: { index } }, canvas, page, name, mark);
		attachGestures(canvas, this.camera, () => this.redraw());
		this.panels.push({ root, canvas, page, name, mark });
		this.root.append(root);
		if (index === 1) linkScrolling(this.panels.map((panel) => panel.page), () => this.linked);
	}

	#name({ name, canvas, page }, index, pair) {
		name.textContent = (pair && phrase(["Left", "Right"][index])) || `${index + 1}`;
		name.dataset.where = [phrase("(above)"), phrase("(below)")][index] ?? ""; // for phones: see style.css
		for (const node of [canvas, page]) node.setAttribute("aria-label", phrase`Clip: ${name.textContent}`);
	}

	/** Shows what was said so far once, above, and of the candidates what is their own. */
	#showText(clips) {
		this.common = commonMessages(clips);
		this.refreshText();
		const turns = this.common;
		find("prompt").hidden = clips[0].messages.slice(0, turns).every(({ text }) => !text);
		find("prompt-name").textContent = phrase(turns > 1 ? "Conversation so far" : "Prompt");
		find("prompt").scrollTop = turns > 1 ? find("prompt").scrollHeight : 0; // what they reply to comes last
	}

	/** Writes the texts again, raw or not, with or without marked differences and lengths. */
	refreshText() {
		const { clips } = this.entry ?? { clips: [{}] };
		if (clips[0].form !== "text") return;
		const { common, raw, lengths } = this;
		find("prompt-text").replaceChildren(...conversation(clips[0].messages.slice(0, common), { raw }));
		const compared = (this.different || this.entry.query.revision) && clips.length === 2;
		const parts = compared ? differences(...clips.map(lastReply)) : null;
		this.drawers.forEach((drawer, i) => drawer.show(common, parts?.[i] ?? null, { lengths, raw }));
	}

	#tick(now) {
		const pause = now - this.last;
		this.last = now;
		this.pace += 0.05 * (Math.min(pause, 40) - this.pace);
		if (this.pace > SLOW) {
			this.smoothAfter = now + 20000;
			this.dirty ||= fit.finest > 1;
			fit.finest = 1;
		}
		this.tasks.forEach((task) => task(now));
		if (!this.entry || this.root.closest("[hidden]")) return;
		this.clock.tick(now);
		this.#draw(now);
	}

	/** Draws all clips at the same frame; does nothing while nothing changes. */
	#draw(now = 0) {
		const { clock, drawers, panels } = this;
		const position = now < this.smoothAfter ? clock.frame : clock.position;
		if (position === this.shown && !this.dirty) return;
		if (this.dirty) panels.forEach((panel) => panel.canvas.hidden || panel.root.hidden || fit(panel.canvas));
		this.shown = position;
		this.dirty = false;
		drawers.forEach((drawer, index) => {
			const other = drawers.length === 2 ? drawers[1 - index] : null;
			drawer.draw(Math.min(position, drawer.frames - 1), { ghost: this.ghost, other });
			const { mark } = panels[index];
			const words = remark(this.entry.clips[index], clock.frame);
			if (mark.textContent !== words) Object.assign(mark, { textContent: words, hidden: !words });
		});
		this.#report();
	}

	#report() {
		const { frame, frames } = this.clock;
		const { dataset } = document.body;
		dataset.frame = frame;
		[dataset.left, dataset.right] = [0, 1].map((i) =>
			Math.min(frame, (this.drawers[i]?.frames ?? 1) - 1));
		const scrub = find("scrub");
		if (scrub.max !== `${frames - 1}`) scrub.max = `${frames - 1}`;
		if (scrub.value !== `${frame}`) scrub.value = `${frame}`;
	}
}
