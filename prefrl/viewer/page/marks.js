// Moments that mislead whoever does not know of them: marked on the timeline, and said in words.

import { button, element } from "./dom.js";
import { phrase } from "./language.js";

const THUMB = 16; // pixels of the slider's knob, which does not reach the ends
const MOST = 40; // marks of a clip; more would be a stripe

/** Lists the moments of a clip that are to be known, [frame, words], in order. */
export function momentsOf({ stood_up: up = [], set_back: back = [], still = null, ended, frames }) {
	const moments = [...up.map((at) => [at, phrase("stood up again here")]), ...back.map((at) => [at, phrase("put back here")])];
	if (still !== null) moments.push([still, phrase("does not move any more")]);
	if (ended) moments.push([frames, phrase("the episode ends here")]);
	return moments.sort(([a], [b]) => a - b).slice(0, MOST);
}

/** The timeline: a slider with a mark at each such moment, which goes there. */
export class Timeline {
	constructor(scrub, onSeek) {
		Object.assign(this, { onSeek, marks: element("span", { className: "marks" }) });
		this.root = element("span", { className: "timeline" }, scrub, this.marks);
	}

	/** Marks the moments of clips that play for so many frames, each with the name of its clip. */
	show(clips, names, frames) {
		const last = Math.max(1, frames - 1);
		this.marks.replaceChildren(...clips.flatMap((clip, index) => momentsOf(clip).map(([at, words]) => {
			const label = phrase`${names[index]}: ${words}`;
			const mark = button("", () => this.onSeek(Math.min(at, last)), { className: "moment", title: label, tabIndex: -1,
				aria: { label }, data: { frame: at } });
			mark.style.left = `calc(${THUMB / 2}px + (100% - ${THUMB}px) * ${Math.min(1, at / last)})`;
			return mark;
		})));
	}
}
