/** @fileoverview Uses shapes.js and words.js; what is printed is all there is. */

/** @param {...*} values */
function print(...values) {
  console.log(values.join(' '));
}

const shapes = [new Circle(1), new Rectangle(2, 3), new Circle(0.5)];
for (const shape of shapes) {
  print(shape.describe());
}
const total = shapes.reduce((sum, shape) => sum + shape.area(), 0);
print('total', total.toFixed(2));
print(...mostFrequent(countWords(GREETING)));

if (FULL_TURN < 6) {
  print('This is dead code, and is removed.');
}
