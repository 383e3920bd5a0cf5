// A rating for each clip on a scale.

import { button, element, visible } from "./dom.js";
import { answerButton, flash } from "./keys.js";
import { phrase } from "./language.js";

/** The controls for ratings: digits rate one clip after the other, Enter stores. */
export class RatingsJudge {
	constructor(answer) {
		this.answer = answer;
		this.ends = ["worst", "best"]; // what the lowest and the highest grade are called
		this.scale = element("p", { className: "ends" });
		this.rows = element("div", { className: "ratings" });
		this.store = button("Store", () => this.act("store"), { key: "⏎", className: "answer primary" });
		this.skip = answerButton("skip", "Can't tell", () => this.act("skip"), { className: "answer" });
		this.root = element("div", {}, this.scale, this.rows,
			element("div", { className: "answers" }, this.skip, this.store));
	}

	open(query, was) {
		const [low, high] = query.scale ?? [1, 5];
		const whole = Number.isInteger(low) && Number.isInteger(high) && high - low <= 10;
		const steps = whole ? high - low : 10; // a scale without steps gets eleven
		this.grades = Array.from({ length: steps + 1 }, (_, i) => low + ((high - low) * i) / steps);
		const before = was?.kind === "ratings" ? was.value.ratings : [];
		Object.assign(this, { low, high, whole, current: 0 });
		this.ratings = query.clips.map((_, index) => before[index] ?? null);
		this.scale.replaceChildren(...[low, high].map((grade, end) =>
			element("span", { dir: "auto" }, `${grade} = ${visible(this.ends[end])}`)));
		this.rows.replaceChildren(...query.clips.map((_, index) => this.#row(index)));
		this.#draw();
	}

	#row(index) {
		const label = phrase`Clip ${index + 1}`;
		const grades = this.grades.map((value) => button(`${Number(value.toPrecision(3))}`,
			() => this.#rate(index, value), { className: "grade" }));
		const row = element("div", { className: "rating", aria: { label } },
			element("span", { className: "name" }, label), ...grades);
		row.setAttribute("role", "group");
		return row;
	}

	#rate(index, value) {
		this.ratings[index] = value;
		const next = this.ratings.indexOf(null);
		this.current = next < 0 ? index : next;
		this.#draw();
	}

	#draw() {
		[...this.rows.children].forEach((row, index) => {
			row.classList.toggle("current", index === this.current);
			row.querySelectorAll(".grade").forEach((grade, i) =>
				grade.setAttribute("aria-pressed", this.grades[i] === this.ratings[index]));
		});
		this.store.disabled = this.ratings.includes(null);
	}

	digit(number) {
		const value = this.whole ? number : this.grades[number];
		if (!this.grades.includes(value)) return false;
		this.#rate(this.current, value);
		return true;
	}

	act(name) {
		const { ratings, low, high } = this;
		if (name === "left" || name === "right") {
			this.current = (this.current + (name === "left" ? ratings.length - 1 : 1)) % ratings.length;
			this.#draw();
		} else if (name === "skip") this.#say("skip", {}, this.skip);
		else if (name === "store" && !ratings.includes(null)) {
			this.#say("ratings", { ratings, low, high }, this.store);
		} else return name === "equal" || name === "store";
		return true;
	}

	#say(kind, value, pressed) {
		if (this.answer(kind, value)) flash(pressed);
	}
}
