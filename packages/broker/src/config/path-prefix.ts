/** Whether a path begins with `prefix`, at the border of a segment: `/a` accepts `/a` and `/a/b`, and not `/ab`. */
export function acceptsPath(prefix: string, path: string): boolean {
  if (!path.startsWith(prefix)) return false
  return path.length === prefix.length || prefix.endsWith('/') || path[prefix.length] === '/'
}
