// Two clips: left, right, about equal, can't tell; and by how much, if wanted.

import { button, element, keep, remember } from "./dom.js";
import { answerButton, flash } from "./keys.js";
import { leftToRight, phrase } from "./language.js";

const STRENGTHS = { significantly: phrase("significantly"), better: phrase("better"), slightly: phrase("slightly"),
	negligibly: phrase("negligibly") };
const PREFERRED = {
	left: { significantly: "left significantly better", better: "left better", slightly: "left slightly better",
		negligibly: "left negligibly better" },
	right: { significantly: "right significantly better", better: "right better", slightly: "right slightly better",
		negligibly: "right negligibly better" },
};
const SWIPE = 70; // pixels that a finger moves over the answers, towards the better side

/** Says an answer in words. */
export function inWords(kind, value) {
	if (kind === "tie") return phrase("about equal");
	if (kind === "skip") return phrase("can't tell");
	if (kind === "broken") return value.segment === undefined ? phrase("broken") : phrase`clip ${value.segment + 1} is broken`;
	if (kind === "preference") {
		const { left, strength = "better" } = value;
		return phrase(PREFERRED[left > 0.5 ? "left" : "right"][strength]);
	}
	if (kind === "ranking") return orderInWords(value.order);
	if (kind === "ratings") return phrase`rated ${leftToRight(value.ratings.join(", "))}`;
	return value.order ? phrase`${orderInWords(value.order)}, and a better text for ${value.segment + 1}`
		: phrase`a better text for ${value.segment + 1}`;
}

const orderInWords = (order) =>
	leftToRight(order.map((group) => group.map((index) => index + 1).join(" = ")).join(" › "));

/** The controls for a pair; `answer(kind, value)` takes what the person says. */
export class PairJudge {
	constructor(answer) {
		this.answer = answer;
		const choose = (action) => () => this.act(action);
		this.buttons = {
			left: answerButton("left", "Left better", choose("left"), { className: "answer left" }),
			equal: answerButton("equal", "About equal", choose("equal"), { className: "answer" }),
			skip: answerButton("skip", "Can't tell", choose("skip"), { className: "answer" }),
			right: answerButton("right", "Right better", choose("right"), { className: "answer right" }),
		};
		this.scale = element("div", { className: "strengths", hidden: !remember("strengths", false) });
		for (const side of ["left", "right"]) {
			const names = Object.keys(STRENGTHS);
			const ordered = side === "left" ? names : names.reverse();
			const label = { left: "left better, by how much", right: "right better, by how much" }[side];
			const group = element("div", { aria: { label } },
				...ordered.map((name) => button(STRENGTHS[name], () => this.prefer(side, name), { className: "small" })));
			group.setAttribute("role", "group");
			this.scale.append(group);
		}
		const row = element("div", { className: "answers" }, ...Object.values(this.buttons));
		this.root = element("div", { className: "pair" }, this.scale, row);
		let from = 0;
		row.addEventListener("pointerdown", ({ clientX }) => (from = clientX));
		row.addEventListener("pointerup", ({ clientX, pointerType }) => {
			const way = pointerType === "touch" ? clientX - from : 0;
			if (Math.abs(way) > SWIPE) this.act(way < 0 ? "left" : "right");
		});
	}

	toggleStrengths() {
		this.scale.hidden = !this.scale.hidden;
		keep("strengths", !this.scale.hidden);
		return !this.scale.hidden;
	}

	/** Gets ready for a query; `was` is the answer that it had. */
	open(query, was) {
		const chosen = { preference: was?.value.left > 0.5 ? "left" : "right", tie: "equal", skip: "skip" };
		for (const [name, node] of Object.entries(this.buttons)) {
			node.classList.toggle("was", Boolean(was) && chosen[was.kind] === name);
		}
	}

	prefer(side, strength) {
		this.#say("preference", { left: side === "left" ? 1 : 0, ...(strength ? { strength } : {}) }, side);
	}

	#say(kind, value, name) {
		if (this.answer(kind, value)) flash(this.buttons[name]);
	}

	/** Does what a key or button asks for; returns whether it was for this. */
	act(name, { strong = false } = {}) {
		if (!this.buttons[name]) return false;
		if (name === "equal") this.#say("tie", {}, name);
		else if (name === "skip") this.#say("skip", {}, name);
		else this.prefer(name, strong ? "significantly" : null);
		return true;
	}

	digit(number) {
		if (number !== 1 && number !== 2) return false;
		return this.act(number === 1 ? "left" : "right");
	}
}
