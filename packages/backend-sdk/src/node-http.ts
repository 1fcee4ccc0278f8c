/**
 * Node's own modules, without `import`: that reads all of their properties. On Node 22 and later one of those of `node:http` loads fetch and
 * WebSocket (undici), which is a fifth of what a process with the SDK loads.
 */
export const http = process.getBuiltinModule('node:http')
export const https = process.getBuiltinModule('node:https')
