// The row under the clips: play, step, scrub, speed, camera, ghost, and what texts need.

import { button, element, find, keep, remember, say } from "./dom.js";
import { decimal, phrase } from "./language.js";
import { Timeline } from "./marks.js";

const GHOSTS = { start: "Ghost: where the clip began", other: "Ghost: the other clip", none: "No ghost" };

const speedOf = ({ speed }) => decimal(speed, 2, { minimumFractionDigits: 0 });

/** Builds the row and does what its keys ask for. */
export class Transport {
	constructor(stage) {
		const { clock } = stage;
		Object.assign(this, { stage, clock, shown: null });
		Object.assign(stage, { ghost: remember("ghost", "start"), linked: remember("linked", false) });
		stage.raw = remember("raw", false);
		const small = (label, name, title, key) => button(label, () => this.act(name), { className: "small", data: { act: name }, title: key ? `${phrase(title)} (${phrase(key)})` : title, aria: { label: title } });
		this.play = small("", "play", "Play or pause", "Space");
		this.speed = element("output", { className: "speed", aria: { label: "Speed" } });
		const scrub = element("input", { type: "range", id: "scrub", max: 0, value: 0, aria: { label: "Frame" } });
		scrub.addEventListener("input", () => {
			clock.seek(Number(scrub.value));
			this.show();
		});
		scrub.addEventListener("pointerup", () => scrub.blur());
		this.timeline = new Timeline(scrub, (frame) => {
			clock.seek(frame);
			this.show();
		});
		this.extra = element("div", { className: "extra" });
		find("transport").append(element("div", { className: "moving" },
			small("↺", "restart", "From the start", "0"), small("‹", "back", "One frame back", ","), this.play,
			small("›", "on", "One frame on", "."), this.timeline.root, small("−", "slower", "Slower", "["), this.speed,
			small("+", "faster", "Faster", "]"), small("Ghost", "ghost", "Ghost", "G"),
			small("Camera", "reset", "Camera: reset", "R"), small("Full", "full", "Full screen", "F")),
		element("div", { className: "reading" }, small("Link", "link", "Link scrolling", "L"),
			small("Differences", "difference", "Differences between the texts", "D"),
			small("Raw", "raw", "Raw texts instead of Markdown", "M"),
			small("Lengths", "lengths", "Lengths of the texts")), this.extra);
		this.show();
	}

	show() {
		const { clock, stage } = this;
		this.play.firstChild.textContent = clock.playing ? "❚❚" : "▶";
		this.speed.textContent = `${speedOf(clock)}×`;
		if (stage.entry !== this.shown) this.timeline.show(stage.entry.clips, stage.names, clock.frames);
		this.shown = stage.entry;
		const pressed = { link: stage.linked, difference: stage.different, lengths: stage.lengths, raw: stage.raw };
		for (const [name, on] of Object.entries(pressed)) {
			find("transport").querySelector(`[data-act="${name}"]`).setAttribute("aria-pressed", on);
		}
		stage.redraw();
	}

	/** Does what a key or button asks for; returns whether it was for this. */
	act(name) {
		const { clock, stage } = this;
		const deeds = {
			play: () => clock.toggle(),
			back: () => clock.step(-1),
			on: () => clock.step(1),
			slower: () => this.#shift(-1),
			faster: () => this.#shift(1),
			restart: () => clock.restart(),
			reset: () => stage.camera.reset(),
			full: () => this.#full(),
			ghost: () => this.#ghost(),
			link: () => this.#switch("linked", "Link"),
			difference: () => this.#switch("different", "Differences"),
			lengths: () => this.#switch("lengths", "Lengths"),
			raw: () => this.#switch("raw", "Raw"),
		};
		deeds[name]?.();
		if (deeds[name]) this.show();
		return name in deeds;
	}

	#shift(direction) {
		this.clock.shift(direction);
		say(phrase`Speed ${speedOf(this.clock)}×`, { quiet: true });
	}

	#switch(name, label) {
		this.stage[name] = !this.stage[name];
		if (name === "linked" || name === "raw") keep(name, this.stage[name]);
		if (name !== "linked") this.stage.refreshText();
		say(this.stage[name] ? phrase`${phrase(label)}: on` : phrase`${phrase(label)}: off`);
	}

	#ghost() {
		const names = Object.keys(GHOSTS).filter((name) => name !== "other" || this.stage.drawers.length === 2);
		this.stage.ghost = names[(names.indexOf(this.stage.ghost) + 1) % names.length];
		keep("ghost", this.stage.ghost);
		say(GHOSTS[this.stage.ghost]);
	}

	#full() {
		if (document.fullscreenElement) document.exitFullscreen();
		else document.documentElement.requestFullscreen?.().catch(() => say("Full screen is not allowed here."));
	}
}
