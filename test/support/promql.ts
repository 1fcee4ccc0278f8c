/** Keywords in positions where a metric could be. */
const KEYWORDS = new Set(['and', 'or', 'unless', 'bool', 'offset'])

/** Keywords followed by a list of labels, not metrics, in brackets. */
const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*(?:\([^)]*\))?/g

/** A complete name that is not a function, with its matchers. */
const SELECTOR = /(?<![\w:."])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()\s*(\{(?:"[^"]*"|[^"}])*\})?/g

/**
 * The selectors of a PromQL expression, `name` or `name{...}`, in order of appearance
 * (https://prometheus.io/docs/prometheus/latest/querying/basics/).
 */
export function selectorsOf(expression: string): { name: string; selector: string }[] {
  const plain = expression.replaceAll(GROUPING, ' ').replaceAll(/\[[^\]]*\]/g, ' ')
  return [...plain.matchAll(SELECTOR)]
    .filter(([, name = '']) => !KEYWORDS.has(name))
    .map(([, name = '', labels = '']) => ({ name, selector: `${name}${labels}` }))
}
