package demo;

import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** A name that can be greeted. */
public record Name(String text) {
    static List<Name> all(String... texts) {
        return Stream.of(texts).filter(text -> !text.isEmpty()).map(Name::new).collect(Collectors.toList());
    }

    @Override
    public String toString() {
        return text + "!";
    }
}
