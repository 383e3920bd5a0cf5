// Three to nine clips: an order, by digits, by dragging or by arrow keys; or only the best of them. A better
// text than one of them goes along with the order.

import { button, element, say } from "./dom.js";
import { answerButton, flash } from "./keys.js";
import { phrase } from "./language.js";

/** The controls for a ranking, or for the choice of the best. */
export class RankingJudge {
	constructor(answer) {
		this.answer = answer;
		this.order = []; // groups of clip numbers, best first
		this.better = null; // a better text than one of them, {segment, text}
		this.joins = false; // whether the next digit is equal to the one before
		const className = "answer";
		this.strip = element("ol", { className: "order", aria: { label: "Order, best first" } });
		this.pool = element("div", { className: "pool", aria: { label: "Not yet placed" } });
		this.clear = button("Start over", () => this.#startOver(), { className });
		this.equal = answerButton("equal", "All about equal", () => this.act("equal"), { className });
		this.skip = answerButton("skip", "Can't tell", () => this.act("skip"), { className });
		this.store = button("Store", () => this.act("store"), { key: "⏎", className: "answer primary" });
		this.hint = element("p", { className: "hint" });
		this.root = element("div", {}, this.hint, element("div", { className: "places" }, this.strip, this.pool),
			element("div", { className: "answers" }, this.clear, this.equal, this.skip, this.store));
		this.#dragging();
	}

	open(query, was) {
		this.count = query.clips.length;
		this.choice = query.kind === "choice";
		for (const node of [this.strip, this.clear, this.store]) node.hidden = this.choice;
		const { order = [], ...text } = was?.value ?? {};
		this.better = was?.kind === "rewrite" && !this.choice ? text : null;
		this.#set(["ranking", "rewrite"].includes(was?.kind) && !this.choice ? order : []);
	}

	/** Whether a better text goes along with the order, instead of being the answer. */
	get takesText() {
		return !this.choice;
	}

	/** Takes a better text than one of the clips, to be stored with the order. */
	take(better) {
		this.better = better;
		this.#draw();
		say(this.#hint(), { quiet: true });
		return true;
	}

	#startOver() {
		this.better = null;
		this.#set([]);
	}

	#hint() {
		if (this.choice) return phrase("Press the number of the best one.");
		if (!this.better) return phrase("Press the numbers from best to worst, = before one that is equal to the last. Or drag.");
		return phrase`Your text instead of ${this.better.segment + 1} is kept: give the order, too, or store it alone.`;
	}

	#set(order) {
		this.order = order.filter((group) => group.length);
		this.joins = false;
		this.#draw();
	}

	get #free() {
		const placed = this.order.flat();
		return Array.from({ length: this.count }, (_, i) => i).filter((i) => !placed.includes(i));
	}

	#without(index) {
		return this.order.map((group) => group.filter((other) => other !== index));
	}

	#draw() {
		const focused = document.activeElement?.dataset.chip;
		this.strip.replaceChildren(...this.order.map((group, place) => element("li", { data: { place } },
			element("span", { className: "place" }, `${place + 1}.`), ...group.map((index) => this.#chip(index)))));
		this.pool.replaceChildren(...this.#free.map((index) => this.#chip(index)));
		this.hint.textContent = this.#hint();
		this.store.disabled = this.#free.length > 0 && !this.#textAlone;
		if (focused) this.root.querySelector(`[data-chip="${focused}"]`)?.focus();
		document.querySelectorAll(".clip").forEach((clip, index) => {
			const place = this.order.findIndex((group) => group.includes(index));
			clip.dataset.place = place < 0 ? "" : phrase`place ${place + 1}`;
		});
	}

	get #textAlone() {
		return this.better !== null && this.order.length === 0;
	}

	#chip(index) {
		const place = this.order.findIndex((group) => group.includes(index)) + 1;
		const label = place ? phrase`Clip ${index + 1}, place ${place}` : phrase`Clip ${index + 1}, not placed`;
		const chip = button(`${index + 1}`, (event) => {
			if (event.detail === 0) this.digit(index + 1); // by keyboard; dragging sees to pointers
		}, { className: "chip", data: { chip: index }, aria: { label } });
		chip.addEventListener("keydown", (event) => {
			const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
			if (!direction || event.ctrlKey || event.altKey || event.metaKey) return;
			event.preventDefault();
			this.#move(index, direction);
		});
		return chip;
	}

	/** Moves a clip half a place: out of a shared place, or into its neighbour's. */
	#move(index, direction) {
		const at = this.order.findIndex((group) => group.includes(index));
		const order = this.#without(index);
		if (at < 0) order.push([index]);
		else if (order[at].length) order.splice(direction > 0 ? at + 1 : at, 0, [index]);
		else (order[at + direction] ?? order[at]).push(index);
		this.#set(order);
		this.#tell(index);
	}

	#tell(index) {
		const place = this.order.findIndex((group) => group.includes(index));
		const sentences = [this.order[place].length > 1 ? phrase`Clip ${index + 1} has place ${place + 1}, shared.`
			: phrase`Clip ${index + 1} has place ${place + 1}.`];
		if (!this.#free.length) sentences.push(phrase("All are placed; Enter stores the order."));
		say(sentences.join(" "), { quiet: true });
	}

	#place(index, together) {
		const order = this.#without(index);
		if (together && order.length) order.at(-1).push(index);
		else order.push([index]);
		this.#set(order);
		[this.implied] = this.#free.length === 1 ? this.#free : [];
		if (this.#free.length === 1) this.#set([...this.order, this.#free]);
		this.#tell(index);
	}

	/** Takes a digit: the next place, or the best one. Pressed again, it takes the clip out. */
	digit(number, { strong = false } = {}) {
		const index = number - 1;
		if (index < 0 || index >= this.count) return false;
		const free = this.#free;
		const implied = this.implied === index; // whoever types the last number, too, means no harm
		this.implied = undefined;
		if (implied) return true;
		if (this.choice) this.answer("ranking", { order: [[index], free.filter((other) => other !== index)] });
		else if (free.includes(index)) this.#place(index, strong || this.joins);
		else this.#set(this.#without(index));
		return true;
	}

	act(name) {
		if (name === "together") this.joins = this.order.length > 0;
		else if (name === "store" && !this.choice) this.#store();
		else if (name === "equal") this.#say("tie", {}, this.equal, [Array.from({ length: this.count }, (_, i) => i)]);
		else if (name === "skip") this.#say("skip", {}, this.skip);
		else if (name === "undo" && this.order.length) {
			this.#set(this.#without(this.order.at(-1).at(-1))); // first what was placed, then what was stored
		} else if (name === "undo" && this.better) this.#startOver();
		else return name === "left" || name === "right";
		return true;
	}

	/** Answers, with the better text and, if there is one, the order that goes along. */
	#say(kind, value, pressed, order = null) {
		const answered = this.better ? this.answer("rewrite", { ...this.better, ...(order && { order }) })
			: this.answer(kind, value);
		if (answered) flash(pressed);
	}

	#store() {
		const { order } = this;
		if (this.#textAlone) this.#say("rewrite", {}, this.store);
		else if (this.#free.length) say("Some clips have no place yet.");
		else this.#say("ranking", { order }, this.store, order);
	}

	#dragging() {
		let drag = null;
		this.root.addEventListener("pointerdown", (event) => {
			const chip = event.target.closest(".chip");
			if (!chip || event.button) return;
			drag = { chip, index: Number(chip.dataset.chip), x: event.clientX, y: event.clientY };
			chip.setPointerCapture(event.pointerId);
		});
		this.root.addEventListener("pointermove", (event) => {
			if (!drag) return;
			const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
			drag.moved ||= Math.hypot(dx, dy) > 6;
			if (!drag.moved) return;
			drag.chip.classList.add("dragged");
			drag.chip.style.transform = `translate(${dx}px, ${dy}px)`;
			drag.target = this.#target(event, drag.chip);
		});
		this.root.addEventListener("pointerup", () => {
			const { index, moved, target } = drag ?? {};
			drag = null;
			if (moved) this.#drop(index, target);
			else if (this.#free.includes(index)) this.digit(index + 1);
		});
		this.root.addEventListener("pointercancel", () => (drag = this.#draw()));
	}

	#target(event, chip) {
		this.strip.querySelectorAll(".joins").forEach((node) => node.classList.remove("joins"));
		const strip = this.strip.getBoundingClientRect();
		if (event.clientY < strip.top - 30 || event.clientY > strip.bottom + 30) return null;
		for (const group of this.strip.children) {
			if (group.contains(chip) && group.querySelectorAll(".chip").length === 1) continue;
			const box = group.getBoundingClientRect();
			const part = (event.clientX - box.left) / box.width;
			const joins = part >= 0.2 && part <= 0.8;
			group.classList.toggle("joins", joins);
			if (part <= 0.8) return { place: Number(group.dataset.place), joins };
		}
		return { place: this.order.length, joins: false };
	}

	#drop(index, target) {
		const order = this.#without(index);
		if (target?.joins) order[target.place].push(index);
		else if (target) order.splice(target.place, 0, [index]);
		this.#set(order);
		if (target) this.#tell(index);
	}
}
