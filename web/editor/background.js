// The photograph behind the canvas, before any run: the file of a connected Load Image.

import { say } from "./words.js"

const LOADER = "LoadImage"
const INPUT = "background_image"

/** The node that is connected to the editor's photograph; null without one. */
function source(node) {
    const link = node.inputs?.find(({ name }) => name === INPUT)?.link
    const links = node.graph?.links
    const wire = link == null ? null : (links?.get?.(link) ?? links?.[link])
    return wire ? node.graph.getNodeById(wire.origin_id) : null
}

const fileWidget = (node) => node?.widgets?.find(({ name }) => name === "image")

/** What /view wants of the connected Load Image's file; null if something else is connected. */
export function connectedFile(node) {
    const loader = source(node)
    const value = loader?.type === LOADER && fileWidget(loader)?.value
    if (typeof value !== "string" || !value) return null
    const [, path, type = "input"] = value.match(/^(.*?)(?: \[(\w+)\])?$/)
    const at = path.lastIndexOf("/") + 1
    return { filename: path.slice(at), subfolder: path.slice(0, Math.max(0, at - 1)), type }
}

/**
 * Puts an uploaded file (its name in the input folder) behind the canvas: into the connected Load
 * Image, or into a new one. Throws an Error if something else is connected.
 */
export function putBehind(node, file, litegraph) {
    let loader = source(node)
    if (loader && loader.type !== LOADER)
        throw new Error(say("something else is connected to background_image: disconnect it first"))
    if (!loader) {
        loader = litegraph.createNode(LOADER)
        loader.pos = [node.pos[0] - loader.size[0] - 60, node.pos[1]]
        node.graph.add(loader)
        loader.connectByType(0, node, "IMAGE")
    }
    const widget = fileWidget(loader)
    const { values } = widget.options ?? {}
    if (Array.isArray(values) && !values.includes(file)) values.push(file)
    widget.value = file
    widget.callback?.(file)
}
