// Draws clips that are pictures already: cells of one sprite sheet, each for `every` frames.

import { colours } from "./shade.js";

/** Draws one clip of pictures, as large as fits. */
export class FrameDrawer {
	constructor(clip, canvas) {
		Object.assign(this, { clip, canvas, frames: clip.frames });
		this.context = canvas.getContext("2d", { alpha: false });
	}

	draw(position) {
		const { clip, context, canvas } = this;
		const cell = Math.floor(Math.min(position, clip.frames - 1) / clip.every);
		const scale = Math.min(canvas.width / clip.width, canvas.height / clip.height);
		const [width, height] = [clip.width * scale, clip.height * scale];
		context.fillStyle = colours()["sky-low"];
		context.fillRect(0, 0, canvas.width, canvas.height);
		context.imageSmoothingEnabled = scale < 3; // large pixels stay crisp
		context.imageSmoothingQuality = "high";
		context.drawImage(clip.image, (cell % clip.columns) * clip.width,
			Math.floor(cell / clip.columns) * clip.height, clip.width, clip.height,
			(canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
	}
}
