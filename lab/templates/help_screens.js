// Opens a graph with the chosen nodes in columns and all others far away, and runs it.
// columns: ids. sizes: id -> width, and height beyond that of its widgets. run: more ids that are
// to run; null to run nothing. sides: pixels.
async ([graph, columns, sizes, run, sides]) => {
    const runs = async () => {
        if (!await app.queuePrompt(0, 1)) throw new Error('the graph was refused')
        const ask = async path => (await app.api.fetchApi(path)).json()
        const waiting = queue => queue.queue_running.length + queue.queue_pending.length
        while (waiting(await ask('/queue'))) await new Promise(done => setTimeout(done, 250))
        const [last] = Object.values(await ask('/history?max_items=1'))
        if (last.status.status_str !== 'success') throw new Error(JSON.stringify(last.status))
    }
    await app.loadApiJson(graph, 'help')
    app.nodeOutputs = {}  // of a graph before this one, by the same ids
    const nodes = new Map(app.graph._nodes.map(node => [String(node.id), node]))
    const chosen = columns.flat().map(id => nodes.get(id))
    const links = [...app.graph.links.values()]
    const needed = new Set([...columns.flat(), ...run ?? []])
    for (const id of needed)  // grows while it is read
        for (const link of links)
            if (String(link.target_id) === id) needed.add(String(link.origin_id))
    for (const [id, node] of nodes) {
        node.title = node.constructor.title
        for (const widget of node.widgets ?? [])
            if (widget.name === 'control_after_generate') widget.value = 'fixed'
        if (run && !needed.has(id)) node.mode = LiteGraph.NEVER
        if (!chosen.includes(node)) node.pos = [needed.has(id) ? -3000 : 5000, 0]
    }
    let x = 0
    for (const column of columns) {
        const width = Math.max(...column.map(id => sizes[id][0]))
        let y = 0
        for (const id of column) {
            const node = nodes.get(id)
            node.setSize([width, Math.max(node.computeSize()[1], 40) + sizes[id][1]])
            node.pos = [x, y]
            y += node.size[1] + sides.title + sides.below
        }
        x += width + sides.between
    }
    const outside = []
    for (const link of links) {  // those that come from outside run level
        const from = nodes.get(String(link.origin_id)), to = nodes.get(String(link.target_id))
        const start = from.getOutputPos(link.origin_slot), end = to.getInputPos(link.target_slot)
        if (chosen.includes(to) && !chosen.includes(from)) from.pos[1] += end[1] - start[1]
        if (chosen.includes(from) && !chosen.includes(to)) to.pos[1] += start[1] - end[1]
        if (!chosen.includes(from) && !chosen.includes(to)) outside.push(link.id)
    }
    app.canvas.background_image = ''  // its grid makes files larger
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [sides.left, sides.top]
    app.canvas.deselectAll?.()
    app.canvas.setDirty(true, true)
    if (run) await runs()
    outside.forEach(id => app.graph.removeLink(id))
}
