/**
 * Node's own module, when it is needed, and without `import`: that reads all of its properties, and on Node 22 and later one of them loads
 * fetch and WebSocket (undici), a fifth of what a worker loads.
 */
export const http = () => process.getBuiltinModule('node:http')
