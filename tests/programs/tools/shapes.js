/** @fileoverview Shapes: classes, inheritance, a constant that folds. */

/** @const {number} */
const FULL_TURN = 2 * Math.PI;

/** A shape with an area. */
class Shape {
  /** @param {string} name */
  constructor(name) {
    /** @const {string} */
    this.name = name;
  }

  /** @return {number} */
  area() {
    return 0;
  }

  /** @return {string} */
  describe() {
    return `${this.name} of ${this.area().toFixed(2)}`;
  }
}

/** A circle. */
class Circle extends Shape {
  /** @param {number} radius */
  constructor(radius) {
    super('circle');
    /** @private @const {number} */
    this.radius_ = radius;
  }

  /** @override */
  area() {
    return FULL_TURN / 2 * this.radius_ ** 2;
  }
}

/** A rectangle. */
class Rectangle extends Shape {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    super('rectangle');
    /** @private @const {number} */
    this.width_ = width;
    /** @private @const {number} */
    this.height_ = height;
  }

  /** @override */
  area() {
    return this.width_ * this.height_;
  }

  /** Nobody calls this: ADVANCED removes it. */
  neverCalledByAnyone() {
    return this.width_ + this.height_;
  }
}
