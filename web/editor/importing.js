// What can be dropped or pasted: a pose as JSON, an image that holds one of ComfyUI's workflows
// with a Pose Editor, or a photograph.

import * as states from "./state.js"
import { say } from "./words.js"

const EDITOR = "VitruvianPoseEditor"
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10] // of every PNG

/**
 * What a dropped file is: { states } of the frames in it, or { photo: file }. Throws an Error that
 * says what is wrong. readPose: reads other forms of poses than ours, on the server.
 */
export async function readFile(file, readPose) {
    if (/\.json$/i.test(file.name) || file.type === "application/json")
        return { states: await readText(await file.text(), readPose) }
    if (!file.type.startsWith("image/")) throw new Error(say("this is neither JSON nor an image"))
    const saved = posesOf(pngTexts(new Uint8Array(await file.arrayBuffer())))
    return saved.length ? { states: saved } : { photo: file }
}

/** The states of a pose's JSON text, in any form that the pack reads, or of a workflow's. */
export async function readText(text, readPose) {
    let content
    try {
        content = JSON.parse(text)
    } catch (error) {
        throw new Error(say("this is not JSON (<message>)", { message: error.message }))
    }
    const saved = posesOf({ workflow: content, prompt: content })
    if (saved.length) return saved
    try {
        return [content].flat().map(states.fromFrame)
    } catch {
        return (await readPose(content)).map(states.fromFrame)
    }
}

/** Whether a copied text looks like a pose: anything else is not for the editor. */
export const looksLikePose = (text) =>
    /^\s*[[{]/.test(text) && /"(pose_keypoints_2d|people|keypoints)"/.test(text)

/** The edited people in a workflow or in a prompt of ComfyUI. */
export function posesOf({ workflow, prompt }) {
    const graphs = [workflow, ...(workflow?.definitions?.subgraphs ?? [])]
    const nodes = graphs.flatMap((graph) => (Array.isArray(graph?.nodes) ? graph.nodes : []))
    const values = nodes.filter(({ type }) => type === EDITOR)
        .flatMap(({ widgets_values: saved }) => Object.values(saved ?? {}))
    const inputs = Object.values(prompt ?? {}).filter((node) => node?.class_type === EDITOR)
        .map((node) => node.inputs?.people)
    const texts = [...values, ...inputs].filter((value) => typeof value === "string")
    const people = [...new Set(texts)].map(stateOf).filter((state) => state?.people.length)
    return people.slice(0, 1)
}

function stateOf(text) {
    try {
        return states.parse(text)
    } catch {
        return null
    }
}

/** The JSON texts in a PNG by their keywords, as ComfyUI saves them; none if it is no PNG. */
export function pngTexts(bytes) {
    const jsons = {}
    if (!SIGNATURE.every((byte, i) => bytes[i] === byte)) return jsons
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
        const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8))
        if (!["tEXt", "iTXt"].includes(type)) continue
        const chunk = bytes.subarray(at + 8, at + 8 + view.getUint32(at))
        const [keyword, text] = readChunk(type, chunk)
        try {
            jsons[keyword] = JSON.parse(text)
        } catch {
            continue // a text that is not JSON is none of ComfyUI's
        }
    }
    return jsons
}

/** Keyword and text of a chunk: iTXt has two bytes, language and translation between them. */
function readChunk(type, chunk) {
    const end = chunk.indexOf(0)
    const keyword = new TextDecoder("latin1").decode(chunk.subarray(0, end))
    if (type === "tEXt") return [keyword, new TextDecoder("latin1").decode(chunk.subarray(end + 1))]
    const language = chunk.indexOf(0, end + 3)
    const translated = chunk.indexOf(0, language + 1)
    return [keyword, new TextDecoder().decode(chunk.subarray(translated + 1))]
}
