// Who wires one output to Compose People, or one of its outputs to a sampler, wants the others that
// fit, too: prompts beside pose, clip beside model, positive, negative and latent beside model.

import { app } from "../../scripts/app.js"

const NODE = "VitruvianComposePeople"

/** Whether an input has neither a wire nor, in its widget, a text. */
function isFree(node, input) {
    const widget = node.widgets?.find((one) => one.name === input.widget?.name)
    return input.link == null && !widget?.value
}

/** Whether an output is for an input by type and name: latent is for latent_image. */
const fits = (output, input) =>
    output.type === input.type &&
    input.name.toLowerCase().startsWith((output.name || output.type).toLowerCase())

/** Wires what else fits between the two nodes of a wire that somebody has just drawn. */
function addFitting({ detail: link }) {
    const graph = app.canvas.graph
    const [source, target] = [link?.origin_id, link?.target_id].map((id) => graph?.getNodeById(id))
    if (!source || !target || ![source.type, target.type].includes(NODE)) return
    for (const [from, output] of source.outputs.entries())
        for (const [to, input] of target.inputs.entries())
            if (fits(output, input) && isFree(target, input)) source.connect(from, target, to)
}

app.registerExtension({
    name: "Vitruvian.FittingWires",
    setup: () => app.canvas.linkConnector?.events.addEventListener("link-created", addFitting),
})
