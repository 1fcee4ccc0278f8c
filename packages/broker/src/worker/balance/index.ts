export { createChooser, type Balance, type Candidate, type Chooser, type ChooseKey } from './balancer.ts'
