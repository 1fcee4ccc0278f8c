/** Words of the language that stand where a metric could. */
const KEYWORDS = new Set(['and', 'or', 'unless', 'bool', 'offset'])

/** Labels, not metrics, stand in the brackets behind these. */
const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*(?:\([^)]*\))?/g

/** A whole name that is no function's, and its matchers. */
const SELECTOR = /(?<![\w:."])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()\s*(\{(?:"[^"]*"|[^"}])*\})?/g

/**
 * The selectors of a PromQL expression, `name` or `name{...}`, in the order in which they stand
 * (https://prometheus.io/docs/prometheus/latest/querying/basics/).
 */
export function selectorsOf(expression: string): { name: string; selector: string }[] {
  const plain = expression.replaceAll(GROUPING, ' ').replaceAll(/\[[^\]]*\]/g, ' ')
  return [...plain.matchAll(SELECTOR)]
    .filter(([, name = '']) => !KEYWORDS.has(name))
    .map(([, name = '', labels = '']) => ({ name, selector: `${name}${labels}` }))
}
