// What is said of an answer to a question for practice, whose right answer is known.

import { phrase } from "./language.js";

const pairsOf = (count) => Array.from({ length: count }, (_, i) => i)
	.flatMap((a, i, all) => all.slice(i + 1).map((b) => [a, b]));

/** Returns the place of each clip in an order, 0 for the best. */
function placesOf(order, count) {
	return Array.from({ length: count }, (_, clip) => order.findIndex((place) => place.includes(clip)));
}

/** Counts pairs that differ, and those of them that an answer puts as the right order does. */
function agreement(said, right) {
	const differ = pairsOf(right.length).filter(([a, b]) => right[a] !== right[b]);
	return { of: differ.length, same: differ.filter(([a, b]) => (said[a] - said[b]) * (right[a] - right[b]) > 0).length };
}

/** Says whether an answer agrees with the right one, and why that is right. */
export function verdict(query, { kind, value }, { order, why }) {
	const right = placesOf(order, query.clips.length);
	return `${judged(query, kind, value, right)} ${why}`;
}

function judged(query, kind, value, right) {
	if (kind === "skip") return phrase("Here one can tell.");
	if (kind === "tie") return phrase("Here they differ.");
	if (kind === "preference") return right[value.left > 0.5 ? 0 : 1] === 0 ? phrase("That is right.") : phrase("It is the other way round.");
	if (query.kind === "choice") return right[value.order[0][0]] === 0 ? phrase("That is right.") : phrase("Another one is the best.");
	const said = kind === "ratings" ? value.ratings.map((grade) => -grade) : placesOf(value.order ?? [], right.length);
	const { same, of } = agreement(said, right);
	return same === of ? phrase("That is the right order.") : phrase`Of ${of} pairs, ${same} are in the right order.`;
}
