// Draws what cannot be shown otherwise: one small plot for each series, with the present marked.

import { visible } from "./dom.js";
import { phrase } from "./language.js";
import { colours } from "./shade.js";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]]; // lines differ by more than colour

/** Returns the lowest and the highest of a series' numbers, with a little room around them. */
export function rangeOf(series) {
	const known = series.filter((value) => value !== null);
	const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 0];
	const room = Math.max((high - low) * 0.04, Math.abs(high) * 1e-6, 1e-9);
	return [low - room, high + room];
}

/** Draws one clip of numbers over time; `ranges` are those of the query, where it is one of several. */
export class TraceDrawer {
	constructor(clip, canvas) {
		Object.assign(this, { clip, canvas, frames: clip.frames });
		this.context = canvas.getContext("2d", { alpha: false });
		this.ranges = clip.ranges ?? clip.values.map(rangeOf);
	}

	/** Draws all series up to the frame strongly, what is still to come faintly. */
	draw(position) {
		const { context, canvas, clip } = this;
		const { width, height } = canvas;
		context.fillStyle = colours()["sky-low"];
		context.fillRect(0, 0, width, height);
		const unit = Math.max(1, height / 360);
		const frame = Math.min(position, clip.frames - 1);
		const each = (height - 44 * unit) / clip.values.length;
		clip.values.forEach((series, index) => {
			const box = { left: 12 * unit, top: 36 * unit + index * each + Math.min(22 * unit, each * 0.3),
				width: width - 24 * unit, height: each - Math.min(28 * unit, each * 0.4) };
			this.#plot(series, index, box, frame, unit);
		});
	}

	#plot(series, index, box, frame, unit) {
		const { context, clip } = this;
		const palette = colours();
		const [low, high] = this.ranges[index];
		const x = (i) => box.left + (box.width * i) / Math.max(1, clip.frames - 1);
		const y = (value) => box.top + (box.height * (high - value)) / (high - low);
		context.lineWidth = 2 * unit;
		context.lineJoin = "round";
		context.strokeStyle = palette[`line-${1 + (index % 4)}`];
		context.setLineDash(DASHES[index % 4].map((part) => part * unit));
		for (const [from, to, alpha] of [[0, frame, 1], [frame, clip.frames - 1, 0.25]]) {
			context.globalAlpha = alpha;
			context.beginPath();
			this.#line(series, x, y, Math.floor(from), Math.ceil(to));
			context.stroke();
		}
		context.globalAlpha = 1;
		context.setLineDash([]);
		context.fillStyle = palette.muted;
		context.fillRect(x(frame) - unit / 2, box.top, unit, box.height);
		const value = series[Math.floor(frame)];
		context.font = `${Math.min(13 * unit, box.height * 0.5)}px sans-serif`;
		context.textBaseline = "bottom";
		context.fillStyle = palette.ink;
		context.fillText(visible(clip.names?.[index] ?? phrase`series ${index + 1}`), box.left, box.top - 3 * unit);
		context.textAlign = "right";
		const shown = typeof value === "number" ? value.toPrecision(3) : "–";
		context.fillText(shown, box.left + box.width, box.top - 3 * unit);
		context.textAlign = "left";
	}

	#line(series, x, y, from, to) {
		let pen = false;
		for (let i = from; i <= to && i < series.length; i += 1) {
			if (series[i] === null) pen = false;
			else if (pen) this.context.lineTo(x(i), y(series[i]));
			else {
				this.context.moveTo(x(i), y(series[i]));
				pen = true;
			}
		}
	}
}
